"""What stands for the score: networks, preconditioning, losses and closed-form densities."""

from backdrift.models.conditions import Condition, Label, Picture, Vector
from backdrift.models.conservative import ConservativeDenoiser, Potential
from backdrift.models.denoiser import Denoiser
from backdrift.models.energy import Energy, LogDensity
from backdrift.models.field_networks import DiT, UNet2D
from backdrift.models.guidance import Guided, Tilted, guided
from backdrift.models.guides import DPS, JFPS, MMPS, TMPD, DiffPIR, PiGDM
from backdrift.models.hybrid_score import HybridLoss, HybridScore
from backdrift.models.loss import DenoisingLoss, ImplicitLoss
from backdrift.models.measurement import Measurement
from backdrift.models.mixture import GaussianMixture
from backdrift.models.mlp import MLP
from backdrift.models.nonlinear_measurement import NonlinearMeasurement, PoissonMeasurement
from backdrift.models.operators import (
    Blur,
    DownSampling,
    FourierSampling,
    FunctionOperator,
    LinearOperator,
    Mask,
    Projection,
    Scaled,
)
from backdrift.models.radon import Radon
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
    "DPS",
    "JFPS",
    "MLP",
    "MMPS",
    "TMPD",
    "Blur",
    "Condition",
    "ConservativeDenoiser",
    "Denoiser",
    "DenoisingLoss",
    "DiT",
    "DiffPIR",
    "DownSampling",
    "EDMLikelihoodTimes",
    "Energy",
    "FourierSampling",
    "FunctionOperator",
    "GaussianMixture",
    "Guided",
    "HybridLoss",
    "HybridScore",
    "ImplicitLoss",
    "Label",
    "LikelihoodTimes",
    "LinearOperator",
    "LogDensity",
    "LogNormalTimes",
    "Mask",
    "Measurement",
    "MixedTimes",
    "NonlinearMeasurement",
    "PiGDM",
    "Picture",
    "PoissonMeasurement",
    "Potential",
    "Projection",
    "Radon",
    "Scaled",
    "ScoreDiagnostics",
    "Tilted",
    "TimeDistribution",
    "UNet",
    "UNet2D",
    "UniformTimes",
    "Vector",
    "diagnose_score",
    "guided",
    "score_residual",
]
