"""Log-densities by the probability flow, bounds on them, latent codes, and information, each with its error."""

from backdrift.solvers.density.bounds import elbo
from backdrift.solvers.density.calibration import calibrate
from backdrift.solvers.density.chain import Chain, ChainBound
from backdrift.solvers.density.class_posterior import ClassPosterior, class_posterior
from backdrift.solvers.density.ddpm import DDPM
from backdrift.solvers.density.independent import Independent
from backdrift.solvers.density.information import (
    Information,
    entropy,
    log_density,
    mutual_information,
    relative_entropy,
)
from backdrift.solvers.density.latent import Encoded, decode, encode, interpolate
from backdrift.solvers.density.likelihood import log_likelihood
from backdrift.solvers.density.monte_carlo import MonteCarlo
from backdrift.solvers.density.position_likelihood import PositionLikelihood, position_log_likelihood
from backdrift.solvers.density.result import Likelihood

__all__ = [
    "DDPM",
    "Chain",
    "ChainBound",
    "ClassPosterior",
    "Encoded",
    "Independent",
    "Information",
    "Likelihood",
    "MonteCarlo",
    "PositionLikelihood",
    "calibrate",
    "class_posterior",
    "decode",
    "elbo",
    "encode",
    "entropy",
    "interpolate",
    "log_density",
    "log_likelihood",
    "mutual_information",
    "position_log_likelihood",
    "relative_entropy",
]
