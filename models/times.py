"""Which times are trained on: distributions over t, drawn by their inverse distribution function."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.sde.checks import require_positive


def stratified_uniform(n: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
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
    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        """The inverse distribution function, like `u`, for numbers `u` in (0, 1)."""

    @abstractmethod
    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        """q(t), per unit of time."""

    def __call__(self, u: Tensor, sde: GaussianSDE) -> tuple[Tensor, Tensor]:
        """Times and importance weights, both like `u`, for numbers `u` in (0, 1)."""
        t = self.times(u, sde)
        return t, 1 / ((sde.T - sde.eps) * self.density(t, sde))


def log_ratio(t: Tensor | float, sde: GaussianSDE) -> Tensor:
    """log s, s = sigma/alpha."""
    return -0.5 * sde.log_snr(t)


def log_ratio_slope(t: Tensor, sde: GaussianSDE) -> Tensor:
    """d log(s)/dt = g^2/(2 sigma^2)."""
    return 0.5 * (sde.g(t) / sde.sigma(t)).square()


@dataclass(frozen=True)
class UniformTimes(TimeDistribution):
    """t uniform on [eps, T]; every weight is 1."""

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        return sde.eps + (sde.T - sde.eps) * u

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        return torch.full_like(t, 1 / (sde.T - sde.eps))


@dataclass(frozen=True)
class LikelihoodTimes(TimeDistribution):
    """q(t) proportional to g^2/sigma^2, that is log-SNR uniform between its ends.

    The likelihood weighting g^2/2 of the score's error is g^2/sigma^2 times a noise error of order
    one, so these times take most of its variance away (Song, Durkan, Murray & Ermon 2021, section 5.1).
    """

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        first, last = float(sde.log_snr(sde.eps)), float(sde.log_snr(sde.T))
        return sde.t_from_log_snr(first + (last - first) * u)

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        return log_ratio_slope(t, sde) / float(log_ratio(sde.T, sde) - log_ratio(sde.eps, sde))


@dataclass(frozen=True)
class EDMLikelihoodTimes(TimeDistribution):
    """log s distributed as d^2/(s^2 + d^2), s = sigma/alpha between its ends: log(sin(phi)) uniform, phi = atan(s/d).

    Under these times the weighting "edm" is, up to a constant, the likelihood's: |D - x_0|^2/s^2 per unit of log s
    is (s^2 + d^2)/(s d)^2 |D - x_0|^2 times d^2/(s^2 + d^2). The loss stays of order one at every s.

    Args:
        data_std: d, the standard deviation of the data.

    Raises:
        ValueError: if `data_std` is not positive.
    """

    data_std: float = 0.5

    def __post_init__(self) -> None:
        require_positive(data_std=self.data_std)

    def _log_sine(self, t: float, sde: GaussianSDE) -> float:
        return -0.5 * math.log1p(self.data_std**2 * math.exp(-2 * float(log_ratio(t, sde))))

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        first, last = self._log_sine(sde.eps, sde), self._log_sine(sde.T, sde)
        log_sine = first + (last - first) * u
        # log s = log d + log sin - log cos, with cos^2 = 1 - sin^2
        log_s = math.log(self.data_std) + log_sine - 0.5 * (-torch.expm1(2 * log_sine)).log()
        return sde.t_from_log_snr(-2 * log_s).clamp(sde.eps, sde.T)

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        share = torch.sigmoid(2 * (math.log(self.data_std) - log_ratio(t, sde)))  # d^2/(s^2 + d^2)
        return share * log_ratio_slope(t, sde) / (self._log_sine(sde.T, sde) - self._log_sine(sde.eps, sde))


@dataclass(frozen=True)
class LogNormalTimes(TimeDistribution):
    """log(sigma/alpha) normal, cut off at the ends of the process (Karras et al. 2022, table 1).

    Args:
        mean: of log(sigma/alpha), sigma/alpha in the units of the data.
        std: of log(sigma/alpha).

    Raises:
        ValueError: if `std` is not positive.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        require_positive(std=self.std)

    def _ends(self, sde: GaussianSDE) -> tuple[float, float]:
        """The normal distribution function at the ends."""
        ends = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
        low, high = torch.special.ndtr((log_ratio(ends, sde) - self.mean) / self.std).tolist()
        return low, high

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        low, high = self._ends(sde)
        z = torch.special.ndtri(low + (high - low) * u)
        return sde.t_from_log_snr(-2 * (self.mean + self.std * z)).clamp(sde.eps, sde.T)

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        low, high = self._ends(sde)
        z = (log_ratio(t, sde) - self.mean) / self.std
        normal = (-0.5 * z.square()).exp() / (math.sqrt(2 * math.pi) * self.std)
        return normal * log_ratio_slope(t, sde) / (high - low)


@dataclass(frozen=True)
class MixedTimes(TimeDistribution):
    """A share of the times from one distribution, the rest from another.

    Args:
        first, second: the distributions.
        share: of `first`, in (0, 1).

    Raises:
        ValueError: if `share` is not between 0 and 1.
    """

    first: TimeDistribution = field(default_factory=LogNormalTimes)
    second: TimeDistribution = field(default_factory=EDMLikelihoodTimes)
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: expected a number between 0 and 1, got {self.share!r}")

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        chosen = u < self.share
        # Either one's numbers fill (0, 1) evenly again.
        first = self.first.times(torch.where(chosen, u / self.share, 0.5), sde)
        second = self.second.times(torch.where(chosen, 0.5, (u - self.share) / (1 - self.share)), sde)
        return torch.where(chosen, first, second)

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        return self.share * self.first.density(t, sde) + (1 - self.share) * self.second.density(t, sde)
