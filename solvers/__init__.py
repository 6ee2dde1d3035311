"""What integrates: samplers, ODE and SDE solvers, likelihood, Langevin dynamics, information."""

from backdrift.solvers.density import (
    DDPM,
    Chain,
    ChainBound,
    ClassPosterior,
    Encoded,
    Independent,
    Information,
    Likelihood,
    MonteCarlo,
    PositionLikelihood,
    calibrate,
    class_posterior,
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
from backdrift.solvers.flows.adaptive import Adaptive
from backdrift.solvers.flows.scipy_solver import ScipyODE
from backdrift.solvers.flows.torchdiffeq_solver import TorchDiffEq
from backdrift.solvers.langevin import (
    BAOAB,
    MALA,
    MALT,
    ULA,
    AdjustedBAOAB,
    Chains,
    ParallelTempering,
    Target,
    mcmc,
)
from backdrift.solvers.model import Denoises
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import Solver, Trajectory, sample
from backdrift.solvers.stochastic.brownian import BrownianPath
from backdrift.solvers.stochastic.corrector import (
    Corrector,
    LangevinCorrector,
    MetropolisCorrector,
    OrnsteinUhlenbeckCorrector,
    PredictorCorrector,
)
from backdrift.solvers.stochastic.ddrm import DDRM
from backdrift.solvers.stochastic.particles import Particles, particles
from backdrift.solvers.stochastic.simulate import simulate
from backdrift.solvers.stochastic.symmetric_splitting import SymmetricSplitting
from backdrift.solvers.stochastic.torchsde_solver import TorchSDE
from backdrift.solvers.tables.adams import Adams
from backdrift.solvers.tables.annealed_langevin import AnnealedLangevin
from backdrift.solvers.tables.catalogue import CATALOGUE
from backdrift.solvers.tables.compiled import Compiled
from backdrift.solvers.tables.ddim import DDIM, Ancestral
from backdrift.solvers.tables.dpm_solver import DPMSolver, DPMSolverPP2M, DPMSolverPP2S, ExponentialRK3
from backdrift.solvers.tables.euler import Euler, EulerMaruyama, ReverseDiffusion
from backdrift.solvers.tables.grid import (
    Points,
    angle_grid,
    karras_grid,
    log_snr_grid,
    quadratic_grid,
    time_grid,
    uniform_grid,
)
from backdrift.solvers.tables.heun import Heun
from backdrift.solvers.tables.ipndm import IPNDM
from backdrift.solvers.tables.non_stationary import NonStationary
from backdrift.solvers.tables.order import Certificate, certify, certify_strong
from backdrift.solvers.tables.restart import Restart
from backdrift.solvers.tables.runge_kutta import RungeKutta
from backdrift.solvers.tables.stochastic_adams import SASolver, StochasticAdams
from backdrift.solvers.tables.table import Row, Table, execute
from backdrift.solvers.tables.table_solver import TableSolver
from backdrift.solvers.tables.unipc import UniPC
from backdrift.solvers.tuning.tune import Tuned, tune

__all__ = [
    "BAOAB",
    "CATALOGUE",
    "DDIM",
    "DDPM",
    "DDRM",
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
    "ClassPosterior",
    "Compiled",
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
    "Particles",
    "Points",
    "PositionLikelihood",
    "PredictorCorrector",
    "Restart",
    "ReverseDiffusion",
    "Row",
    "RungeKutta",
    "SASolver",
    "ScipyODE",
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
    "angle_grid",
    "calibrate",
    "certify",
    "certify_strong",
    "class_posterior",
    "decode",
    "elbo",
    "encode",
    "entropy",
    "execute",
    "interpolate",
    "karras_grid",
    "log_density",
    "log_likelihood",
    "log_snr_grid",
    "mcmc",
    "mutual_information",
    "particles",
    "position_log_likelihood",
    "quadratic_grid",
    "relative_entropy",
    "sample",
    "simulate",
    "time_grid",
    "tune",
    "uniform_grid",
]
