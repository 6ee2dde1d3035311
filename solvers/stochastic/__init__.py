"""Solvers of SDEs: the reverse SDE of any process, correctors, forward simulation, and Brownian paths."""
