"""What integrates: samplers, ODE and SDE solvers, likelihood, Langevin dynamics, information."""

from solvers.adams import IPNDM, Adams, DPMSolverPP2M
from solvers.catalogue import CATALOGUE
from solvers.corrector import (
    Corrector,
    Langevin,
    MetropolisLangevin,
    OrnsteinUhlenbeckStep,
    PredictorCorrector,
)
from solvers.ddim import DDIM, Ancestral
from solvers.dpm_solver import DPMSolver, DPMSolverPP2S, ExponentialRK3
from solvers.euler import Euler, EulerMaruyama, ReverseDiffusion
from solvers.grid import Points, karras, log_snr, quadratic, time_grid, uniform
from solvers.heun import Heun
from solvers.likelihood import Likelihood, log_likelihood
from solvers.noise import Noise
from solvers.order import Certificate, certify, certify_strong
from solvers.restart import Restart
from solvers.runge_kutta import RungeKutta
from solvers.scipy_flow import ProbabilityFlow
from solvers.simulate import simulate
from solvers.solver import Denoises, Solver, TableSolver, Trajectory, sample
from solvers.stochastic_adams import SASolver, StochasticAdams
from solvers.symmetric_splitting import SymmetricSplitting
from solvers.table import Row, Table, execute
from solvers.torchsde_solver import TorchSDE
from solvers.unipc import UniPC

__all__ = [
    "CATALOGUE",
    "DDIM",
    "IPNDM",
    "Adams",
    "Ancestral",
    "Certificate",
    "Corrector",
    "DPMSolver",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "Denoises",
    "Euler",
    "EulerMaruyama",
    "ExponentialRK3",
    "Heun",
    "Langevin",
    "Likelihood",
    "MetropolisLangevin",
    "Noise",
    "OrnsteinUhlenbeckStep",
    "Points",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Restart",
    "ReverseDiffusion",
    "Row",
    "RungeKutta",
    "SASolver",
    "Solver",
    "StochasticAdams",
    "SymmetricSplitting",
    "Table",
    "TableSolver",
    "TorchSDE",
    "Trajectory",
    "UniPC",
    "certify",
    "certify_strong",
    "execute",
    "karras",
    "log_likelihood",
    "log_snr",
    "quadratic",
    "sample",
    "simulate",
    "time_grid",
    "uniform",
]
