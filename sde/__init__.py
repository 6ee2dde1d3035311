"""Stochastic processes in closed form: drift, diffusion, marginals, transitions, bridges."""

from backdrift.sde.check import check
from backdrift.sde.check_report import CheckReport
from backdrift.sde.critically_damped import CriticallyDamped
from backdrift.sde.discrete import Discrete
from backdrift.sde.function_model import FunctionModel
from backdrift.sde.gaussian import GaussianSDE
from backdrift.sde.interpolant import Interpolant
from backdrift.sde.linear import LinearSDE
from backdrift.sde.model import HasScore, Model
from backdrift.sde.prior import DataMoments, MatrixPrior, Prior, PriorDensity
from backdrift.sde.process import SDE, NoiseType, ReverseSDE, Time, as_time
from backdrift.sde.rectified import Rectified
from backdrift.sde.schedule import Schedule
from backdrift.sde.stationary import StationarySDE
from backdrift.sde.tweedie import Kind, affine, tweedie
from backdrift.sde.variance_exploding import EDM, VE, Brownian
from backdrift.sde.variance_preserving import VP, CosineVP, OrnsteinUhlenbeck, SubVP

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "Brownian",
    "CheckReport",
    "CosineVP",
    "CriticallyDamped",
    "DataMoments",
    "Discrete",
    "FunctionModel",
    "GaussianSDE",
    "HasScore",
    "Interpolant",
    "Kind",
    "LinearSDE",
    "MatrixPrior",
    "Model",
    "NoiseType",
    "OrnsteinUhlenbeck",
    "Prior",
    "PriorDensity",
    "Rectified",
    "ReverseSDE",
    "Schedule",
    "StationarySDE",
    "SubVP",
    "Time",
    "affine",
    "as_time",
    "check",
    "tweedie",
]
