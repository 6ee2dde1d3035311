"""The straight line from data to noise, as a diffusion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.sde.checks import require_positive
from backdrift.sde.gaussian import GaussianSDE


@dataclass(frozen=True)
class Rectified(GaussianSDE):
    """The path of rectified flow and of flow matching, alpha = 1 - t and sigma = t:

        dx = -x/(1 - t) dt + sqrt(2t/(1 - t)) dw.

    Its probability flow has velocity E[eps - x_0 | x_t]. Liu, Gong & Liu (2022); Lipman et al. (2023).
    The SDE is singular at t = 1, where alpha vanishes, so T must be below 1.

    Args:
        T: end time, below 1.

    Raises:
        ValueError: if T is not between 0 and 1.
    """

    T: float = 0.999

    def __post_init__(self) -> None:
        require_positive(T=self.T)
        if self.T >= 1:
            raise ValueError(f"T: expected a time below 1, where alpha vanishes, got {self.T}")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def f(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    def g(self, t: Tensor) -> Tensor:
        return (2 * t / (1 - t)).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - t.log())

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)
