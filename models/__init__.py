"""What stands for the score: networks, preconditioning, losses and closed-form densities."""

from backdrift.models.conservative import ConservativeDenoiser, Potential
from backdrift.models.denoiser import Denoiser
from backdrift.models.energy import Energy, LogDensity
from backdrift.models.hybrid_score import HybridLoss, HybridScore
from backdrift.models.loss import DenoisingLoss, ImplicitLoss
from backdrift.models.mixture import GaussianMixture
from backdrift.models.mlp import MLP
from backdrift.models.score_diagnostics import ScoreDiagnostics, diagnose_score
from backdrift.models.score_identities import score_residual
from backdrift.models.times import (
    EDMLikelihoodTimes,
    LikelihoodTimes,
    LogNormalTimes,
    MixedTimes,
    TimeDistribution,
    UniformTimes,
)
from backdrift.models.unet import UNet

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
