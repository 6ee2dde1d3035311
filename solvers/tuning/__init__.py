"""Fit a solver to a model."""
