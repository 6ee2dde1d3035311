"""Stochastic processes in closed form: drift, diffusion, marginals, transitions, bridges."""

from sde.check import CheckReport, check
from sde.critically_damped import CriticallyDamped
from sde.gaussian import GaussianSDE, Prior
from sde.linear import Clock, LinearSDE, MatrixPrior
from sde.process import SDE, ReverseSDE, Time, as_time
from sde.rectified import Rectified
from sde.stationary import StationarySDE
from sde.tweedie import FunctionModel, Model, affine, tweedie
from sde.variance_exploding import VE, Brownian
from sde.variance_preserving import VP, CosineVP, OrnsteinUhlenbeck, SubVP

__all__ = [
    "SDE",
    "VE",
    "VP",
    "Brownian",
    "CheckReport",
    "Clock",
    "CosineVP",
    "CriticallyDamped",
    "FunctionModel",
    "GaussianSDE",
    "LinearSDE",
    "MatrixPrior",
    "Model",
    "OrnsteinUhlenbeck",
    "Prior",
    "Rectified",
    "ReverseSDE",
    "StationarySDE",
    "SubVP",
    "Time",
    "affine",
    "as_time",
    "check",
    "tweedie",
]
