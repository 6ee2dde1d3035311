"""Solvers fitted to a model."""
