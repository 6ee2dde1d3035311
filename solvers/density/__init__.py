"""Log-densities by the probability flow, bounds on them, latent codes, and information, each with its error."""

from solvers.density.bounds import elbo
from solvers.density.calibration import calibrate
from solvers.density.chain import DDPM, Chain, ChainBound
from solvers.density.information import (
    Independent,
    Information,
    entropy,
    log_density,
    mutual_information,
    relative_entropy,
)
from solvers.density.latent import Encoded, decode, encode, interpolate
from solvers.density.likelihood import log_likelihood
from solvers.density.monte_carlo import MonteCarlo
from solvers.density.position_likelihood import PositionLikelihood, position_log_likelihood
from solvers.density.result import Likelihood

__all__ = [
    "DDPM",
    "Chain",
    "ChainBound",
    "Encoded",
    "Independent",
    "Information",
    "Likelihood",
    "MonteCarlo",
    "PositionLikelihood",
    "calibrate",
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
