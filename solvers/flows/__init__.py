"""The probability-flow ODE in coordinates fit for integration, and its adaptive solvers."""
