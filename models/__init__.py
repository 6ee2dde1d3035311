"""What stands for the score: networks, preconditioning, losses and closed-form densities."""

from models.denoiser import Denoiser
from models.hybrid_score import HybridLoss, HybridScore
from models.loss import DenoisingLoss
from models.mixture import GaussianMixture
from models.mlp import MLP
from models.times import LikelihoodTimes, LogNormalTimes, TimeDistribution, UniformTimes
from models.unet import UNet

__all__ = [
    "MLP",
    "Denoiser",
    "DenoisingLoss",
    "GaussianMixture",
    "HybridLoss",
    "HybridScore",
    "LikelihoodTimes",
    "LogNormalTimes",
    "TimeDistribution",
    "UNet",
    "UniformTimes",
]
