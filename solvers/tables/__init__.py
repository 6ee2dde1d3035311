"""Solvers on a fixed grid. Each one computes a table of numbers before its first step."""
