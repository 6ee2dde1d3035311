"""The probability-flow ODE in coordinates for integration, and adaptive solvers for it."""
