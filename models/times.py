"""Distributions of the times that a model is trained at, drawn by their inverse distribution functions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.sde.arguments import check_fields
from backdrift.sde.tensor_checks import extremes, require_shape, require_state
from backdrift.sde.value_types import Positive, Range


def stratified_uniform(n: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """`n` stratified numbers in (0, 1), one uniform in each interval [i/n, (i+1)/n): `[n]`, float64.

    Each is uniform over (0, 1) when the data are in random order. The error of a mean over them falls like n^-3/2 and
    not like n^-1/2. Kingma et al. (2021, appendix I.1) use a shifted grid to the same end.

    Args:
        n: how many.
        generator: the source of random numbers.
        device: where to draw them; that of the generator where one is given.
    """
    device = generator.device if generator is not None else device
    jitter = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
    return (torch.arange(n, dtype=torch.float64, device=device) + jitter) / n


def uniform_numbers(x0: Tensor, u: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """The numbers in (0, 1) that choose a time for each sample of a loss, `[batch]`: `u`, or stratified ones.

    Raises:
        ValueError: if x_0 is not `[batch, ...]`, or `u` is not `[batch]` with numbers from 0 to 1.
        TypeError: if x_0 is not a floating-point tensor.
    """
    require_state(x0, "x0")
    if x0.ndim < 2:
        raise ValueError(f"x0: expected [batch, ...] with at least two axes, got shape {list(x0.shape)}")
    if u is None:
        return stratified_uniform(len(x0), generator, x0.device)
    require_shape("u", u, x0.flatten(1)[:, 0])
    _require_unit(u)
    return u


def _require_unit(u: Tensor) -> None:
    """Raise unless every number lies in [0, 1], as far as that can be seen without waiting."""
    found = extremes(u)
    if found is not None and not 0 <= found[0] <= found[1] <= 1:
        raise ValueError(f"u: expected numbers from 0 to 1, got {found[0]:g} to {found[1]:g}")


class TimeDistribution(ABC):
    """A density q of times on [eps, T].

    Called with uniform numbers, it gives times t distributed as q and importance weights 1/((T - eps) q(t)). With these
    weights an expectation over q is an expectation over t uniform on [eps, T].
    """

    @abstractmethod
    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        """The inverse distribution function at numbers `u` in (0, 1), shaped like `u`."""

    @abstractmethod
    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        """q(t), per unit of time, shaped like `t`."""

    def __call__(self, u: Tensor, sde: GaussianSDE) -> tuple[Tensor, Tensor]:
        """Times and importance weights for numbers `u` in (0, 1), both shaped like `u`.

        Raises:
            ValueError: if a number is not from 0 to 1.
        """
        _require_unit(u)
        t = self.times(u, sde)
        return t, 1 / ((sde.start - sde.eps) * self.density(t, sde))


def log_ratio(t: Tensor | float, sde: GaussianSDE) -> Tensor:
    """log s with s = sigma/alpha, shaped like `t`."""
    return -0.5 * sde.log_snr(t)


def log_ratio_slope(t: Tensor, sde: GaussianSDE) -> Tensor:
    """d log(s)/dt = g^2/(2 sigma^2), shaped like `t`."""
    return 0.5 * (sde.g(t) / sde.sigma(t)).square()


@dataclass(frozen=True)
class UniformTimes(TimeDistribution):
    """t uniform on [eps, T], so that every weight is 1."""

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        return sde.eps + (sde.start - sde.eps) * u

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        return torch.full_like(t, 1 / (sde.start - sde.eps))


@dataclass(frozen=True)
class LikelihoodTimes(TimeDistribution):
    """q(t) proportional to g^2/sigma^2, which makes the log-SNR uniform between its ends.

    The score's squared error, weighted by g^2/2 for the likelihood, is g^2/sigma^2 times a noise error of order one.
    These times therefore remove most of the variance of the loss (Song, Durkan, Murray & Ermon 2021, section 5.1).
    """

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        first, last = float(sde.log_snr(sde.eps)), float(sde.log_snr(sde.start))
        return sde.t_from_log_snr(first + (last - first) * u)

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        return log_ratio_slope(t, sde) / float(log_ratio(sde.start, sde) - log_ratio(sde.eps, sde))


@dataclass(frozen=True)
class EDMLikelihoodTimes(TimeDistribution):
    """log s with a density proportional to d^2/(s^2 + d^2), for s = sigma/alpha between its ends.

    This makes log(sin(phi)) uniform, where phi = atan(s/d). Under these times the weighting "edm" is that of the
    likelihood, up to a constant: |D - x_0|^2/s^2 per unit of log s is (s^2 + d^2)/(s d)^2 |D - x_0|^2 times
    d^2/(s^2 + d^2). The loss is of order one at every s.

    Args:
        data_std: d, the standard deviation of the data.

    Raises:
        ValueError: if `data_std` is not positive.
    """

    data_std: Positive = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def _log_sine(self, t: float, sde: GaussianSDE) -> float:
        """log(sin(phi)) at the time `t`."""
        return -0.5 * math.log1p(self.data_std**2 * math.exp(-2 * float(log_ratio(t, sde))))

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        first, last = self._log_sine(sde.eps, sde), self._log_sine(sde.start, sde)
        log_sine = first + (last - first) * u
        # log s = log d + log sin(phi) - log cos(phi), with cos^2 = 1 - sin^2.
        log_s = math.log(self.data_std) + log_sine - 0.5 * (-torch.expm1(2 * log_sine)).log()
        return sde.t_from_log_snr(-2 * log_s).clamp(sde.eps, sde.start)

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        share = torch.sigmoid(2 * (math.log(self.data_std) - log_ratio(t, sde)))  # this is d^2/(s^2 + d^2)
        return share * log_ratio_slope(t, sde) / (self._log_sine(sde.start, sde) - self._log_sine(sde.eps, sde))


@dataclass(frozen=True)
class LogNormalTimes(TimeDistribution):
    """log(sigma/alpha) with a normal density, truncated at the ends of the process (Karras et al. 2022, table 1).

    Args:
        mean: the mean of log(sigma/alpha), with sigma/alpha in the units of the data.
        std: the standard deviation of log(sigma/alpha).

    Raises:
        ValueError: if `mean` is not a number, or `std` is not positive.
    """

    mean: float = -1.2
    std: Positive = 1.2

    def __post_init__(self) -> None:
        check_fields(self)

    def _ends(self, sde: GaussianSDE) -> tuple[float, float]:
        """The normal distribution function at eps and at T."""
        ends = torch.tensor([sde.eps, sde.start], dtype=torch.float64, device="cpu")
        low, high = torch.special.ndtr((log_ratio(ends, sde) - self.mean) / self.std).tolist()
        return low, high

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        low, high = self._ends(sde)
        z = torch.special.ndtri(low + (high - low) * u)
        return sde.t_from_log_snr(-2 * (self.mean + self.std * z)).clamp(sde.eps, sde.start)

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        low, high = self._ends(sde)
        z = (log_ratio(t, sde) - self.mean) / self.std
        normal = (-0.5 * z.square()).exp() / (math.sqrt(2 * math.pi) * self.std)
        return normal * log_ratio_slope(t, sde) / (high - low)


@dataclass(frozen=True)
class MixedTimes(TimeDistribution):
    """A share of the times from one distribution, and the rest from another.

    Args:
        first, second: the distributions.
        share: the share of the times that come from `first`, between 0 and 1.

    Raises:
        ValueError: if `share` is not between 0 and 1.
    """

    first: TimeDistribution = field(default_factory=LogNormalTimes)
    second: TimeDistribution = field(default_factory=EDMLikelihoodTimes)
    share: Annotated[float, Range(above=0, below=1)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def times(self, u: Tensor, sde: GaussianSDE) -> Tensor:
        chosen = u < self.share
        # The numbers that each distribution is given are rescaled to fill (0, 1) evenly again.
        first = self.first.times(torch.where(chosen, u / self.share, 0.5), sde)
        second = self.second.times(torch.where(chosen, 0.5, (u - self.share) / (1 - self.share)), sde)
        return torch.where(chosen, first, second)

    def density(self, t: Tensor, sde: GaussianSDE) -> Tensor:
        return self.share * self.first.density(t, sde) + (1 - self.share) * self.second.density(t, sde)
