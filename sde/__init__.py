"""Stochastic processes in closed form: drift, diffusion, marginals, transitions, bridges."""

from backdrift.sde.check import CheckReport, check
from backdrift.sde.critically_damped import CriticallyDamped
from backdrift.sde.gaussian import GaussianSDE, Prior
from backdrift.sde.linear import LinearSDE, MatrixPrior, Schedule
from backdrift.sde.process import SDE, NoiseType, PriorDensity, ReverseSDE, Time, as_time
from backdrift.sde.rectified import Rectified
from backdrift.sde.stationary import StationarySDE
from backdrift.sde.tweedie import FunctionModel, Model, affine, tweedie
from backdrift.sde.variance_exploding import VE, Brownian
from backdrift.sde.variance_preserving import VP, CosineVP, OrnsteinUhlenbeck, SubVP

__all__ = [
    "SDE",
    "VE",
    "VP",
    "Brownian",
    "CheckReport",
    "CosineVP",
    "CriticallyDamped",
    "FunctionModel",
    "GaussianSDE",
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
