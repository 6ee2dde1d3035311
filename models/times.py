"""Which times are trained on: distributions over t, drawn by their inverse distribution function."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sde import GaussianSDE
from sde.process import require_positive


def stratified(n: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """`n` numbers in (0, 1), one uniform in each interval [i/n, (i+1)/n): `[n]`, float64.

    Every one is uniform when the data are in random order, and their mean error falls like n^-3/2
    instead of n^-1/2 (Kingma et al. 2021, appendix I.1, uses a shifted grid to the same end).
    """
    device = generator.device if generator is not None else device
    jitter = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
    return (torch.arange(n, dtype=torch.float64, device=device) + jitter) / n


class TimeDistribution(ABC):
    """A density q on [eps, T].

    Calling it with uniform numbers gives times t distributed as q and the importance weights
    1/((T - eps) q(t)), under which an expectation over q is one over t uniform on [eps, T].
    """

    @abstractmethod
    def __call__(self, u: Tensor, sde: GaussianSDE) -> tuple[Tensor, Tensor]:
        """Times and importance weights, both like `u`, for numbers `u` in (0, 1)."""


@dataclass(frozen=True)
class UniformTimes(TimeDistribution):
    """t uniform on [eps, T]; every weight is 1."""

    def __call__(self, u: Tensor, sde: GaussianSDE) -> tuple[Tensor, Tensor]:
        return sde.eps + (sde.T - sde.eps) * u, torch.ones_like(u)


@dataclass(frozen=True)
class LikelihoodTimes(TimeDistribution):
    """q(t) proportional to g^2/sigma^2, that is log-SNR uniform between its ends.

    The likelihood weighting g^2/2 of the score's error is g^2/sigma^2 times a noise error of order
    one, so these times take most of its variance away (Song et al. 2021, ScoreFlow, section 4.3).
    """

    def __call__(self, u: Tensor, sde: GaussianSDE) -> tuple[Tensor, Tensor]:
        first, last = float(sde.log_snr(sde.eps)), float(sde.log_snr(sde.T))
        t = sde.t_from_log_snr(first + (last - first) * u)
        return t, (first - last) / (sde.T - sde.eps) * (sde.sigma(t) / sde.g(t)).square()


@dataclass(frozen=True)
class LogNormalTimes(TimeDistribution):
    """log(sigma/alpha) normal, cut off at the ends of the process (Karras et al. 2022, table 1).

    Args:
        mean: of log(sigma/alpha), sigma/alpha in the units of the data.
        std: of log(sigma/alpha).
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        require_positive(std=self.std)

    def __call__(self, u: Tensor, sde: GaussianSDE) -> tuple[Tensor, Tensor]:
        ends = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
        low, high = torch.special.ndtr((-0.5 * sde.log_snr(ends) - self.mean) / self.std).tolist()
        z = torch.special.ndtri(low + (high - low) * u)
        t = sde.t_from_log_snr(-2 * (self.mean + self.std * z)).clamp(sde.eps, sde.T)
        # d log(sigma/alpha)/dt = g^2/(2 sigma^2)
        slope = 0.5 * (sde.g(t) / sde.sigma(t)).square()
        density = (-0.5 * z.square()).exp() / (math.sqrt(2 * math.pi) * self.std * (high - low)) * slope
        return t, 1 / ((sde.T - sde.eps) * density)
