"""What integrates: samplers, ODE and SDE solvers, likelihood, Langevin dynamics, information."""

from solvers.ddim import DDIM, Ancestral
from solvers.euler import Euler, EulerMaruyama, ReverseDiffusion
from solvers.grid import Points, karras, log_snr, quadratic, time_grid, uniform
from solvers.heun import Heun
from solvers.noise import Noise
from solvers.solver import Denoises, Solver, TableSolver, Trajectory, sample
from solvers.table import Row, Table, execute

__all__ = [
    "DDIM",
    "Ancestral",
    "Denoises",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Noise",
    "Points",
    "ReverseDiffusion",
    "Row",
    "Solver",
    "Table",
    "TableSolver",
    "Trajectory",
    "execute",
    "karras",
    "log_snr",
    "quadratic",
    "sample",
    "time_grid",
    "uniform",
]
