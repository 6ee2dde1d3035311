"""What stands for the score: networks, preconditioning, losses and closed-form densities."""

from models.denoiser import Denoiser
from models.energy import ConservativeDenoiser, Energy, LogDensity, Potential
from models.hybrid_score import HybridLoss, HybridScore
from models.loss import DenoisingLoss, ImplicitLoss
from models.mixture import GaussianMixture
from models.mlp import MLP
from models.score_diagnostics import ScoreDiagnostics, diagnose_score, score_residual
from models.times import (
    EDMLikelihoodTimes,
    LikelihoodTimes,
    LogNormalTimes,
    MixedTimes,
    TimeDistribution,
    UniformTimes,
)
from models.unet import UNet

__all__ = [
    "MLP",
    "ConservativeDenoiser",
    "Denoiser",
    "DenoisingLoss",
    "EDMLikelihoodTimes",
    "Energy",
    "GaussianMixture",
    "HybridLoss",
    "HybridScore",
    "ImplicitLoss",
    "LikelihoodTimes",
    "LogDensity",
    "LogNormalTimes",
    "MixedTimes",
    "Potential",
    "ScoreDiagnostics",
    "TimeDistribution",
    "UNet",
    "UniformTimes",
    "diagnose_score",
    "score_residual",
]
