"""Solvers on a fixed grid. Each one is a table of numbers, made before the first step."""
