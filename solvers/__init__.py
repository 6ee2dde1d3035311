"""What integrates: samplers, ODE and SDE solvers, likelihood, Langevin dynamics, information."""

from solvers.adams import Adams
from solvers.adaptive import Adaptive
from solvers.brownian import BrownianPath
from solvers.catalogue import CATALOGUE
from solvers.corrector import (
    Corrector,
    LangevinCorrector,
    MetropolisCorrector,
    OrnsteinUhlenbeckCorrector,
    PredictorCorrector,
)
from solvers.ddim import DDIM, Ancestral
from solvers.density import (
    DDPM,
    Chain,
    ChainBound,
    Encoded,
    Independent,
    Information,
    Likelihood,
    MonteCarlo,
    PositionLikelihood,
    calibrate,
    decode,
    elbo,
    encode,
    entropy,
    interpolate,
    log_density,
    log_likelihood,
    mutual_information,
    position_log_likelihood,
    relative_entropy,
)
from solvers.dpm_solver import DPMSolver, DPMSolverPP2M, DPMSolverPP2S, ExponentialRK3
from solvers.euler import Euler, EulerMaruyama, ReverseDiffusion
from solvers.grid import Points, karras, log_snr, quadratic, time_grid, uniform
from solvers.heun import Heun
from solvers.ipndm import IPNDM
from solvers.langevin import (
    BAOAB,
    MALA,
    MALT,
    ULA,
    AdjustedBAOAB,
    AnnealedLangevin,
    Chains,
    ParallelTempering,
    Target,
    mcmc,
)
from solvers.noise import Noise
from solvers.non_stationary import NonStationary
from solvers.order import Certificate, certify, certify_strong
from solvers.restart import Restart
from solvers.runge_kutta import RungeKutta
from solvers.scipy_flow import ProbabilityFlow
from solvers.simulate import simulate
from solvers.solver import Denoises, Solver, TableSolver, Trajectory, sample
from solvers.stochastic_adams import SASolver, StochasticAdams
from solvers.symmetric_splitting import SymmetricSplitting
from solvers.table import Row, Table, execute
from solvers.torchdiffeq_solver import TorchDiffEq
from solvers.torchsde_solver import TorchSDE
from solvers.tune import Tuned, tune
from solvers.unipc import UniPC

__all__ = [
    "BAOAB",
    "CATALOGUE",
    "DDIM",
    "DDPM",
    "IPNDM",
    "MALA",
    "MALT",
    "ULA",
    "Adams",
    "Adaptive",
    "AdjustedBAOAB",
    "Ancestral",
    "AnnealedLangevin",
    "BrownianPath",
    "Certificate",
    "Chain",
    "ChainBound",
    "Chains",
    "Corrector",
    "DPMSolver",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "Denoises",
    "Encoded",
    "Euler",
    "EulerMaruyama",
    "ExponentialRK3",
    "Heun",
    "Independent",
    "Information",
    "LangevinCorrector",
    "Likelihood",
    "MetropolisCorrector",
    "MonteCarlo",
    "Noise",
    "NonStationary",
    "OrnsteinUhlenbeckCorrector",
    "ParallelTempering",
    "Points",
    "PositionLikelihood",
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
    "Target",
    "TorchDiffEq",
    "TorchSDE",
    "Trajectory",
    "Tuned",
    "UniPC",
    "calibrate",
    "certify",
    "certify_strong",
    "decode",
    "elbo",
    "encode",
    "entropy",
    "execute",
    "interpolate",
    "karras",
    "log_density",
    "log_likelihood",
    "log_snr",
    "mcmc",
    "mutual_information",
    "position_log_likelihood",
    "quadratic",
    "relative_entropy",
    "sample",
    "simulate",
    "time_grid",
    "tune",
    "uniform",
]
