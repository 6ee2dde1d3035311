"""What stands for the score: networks, preconditioning, losses and closed-form densities."""

from models.denoiser import Denoiser
from models.mixture import GaussianMixture

__all__ = ["Denoiser", "GaussianMixture"]
