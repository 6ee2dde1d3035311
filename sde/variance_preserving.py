"""Processes whose variance stays bounded: VP, its cosine schedule, sub-VP, Ornstein-Uhlenbeck."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import softplus

from backdrift.sde.arguments import check_fields
from backdrift.sde.gaussian import GaussianSDE, takes_numbers
from backdrift.sde.value_types import Positive, Range


@dataclass(frozen=True)
class LinearBeta(GaussianSDE):
    """The schedule that VP and sub-VP share. alpha = exp(-B/2), where B(t) is the integral from 0 to t of

        beta(t) = beta_min + (beta_max - beta_min) t/T.

    Args:
        beta_min: rate at t = 0, per unit time.
        beta_max: rate at t = T, per unit time.
        T: end time.

    Raises:
        ValueError: if a parameter is not positive, or beta_max is below beta_min.
    """

    beta_min: Positive = 0.1
    beta_max: Positive = 20.0
    T: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.beta_max < self.beta_min:
            raise ValueError(f"beta_max: expected at least beta_min = {self.beta_min}, got {self.beta_max}")

    def beta(self, t: Tensor) -> Tensor:
        """beta(t), per unit time."""
        return self.beta_min + (self.beta_max - self.beta_min) / self.T * t

    def integrated_beta(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) / self.T * t)

    def t_from_integrated_beta(self, b: Tensor) -> Tensor:
        """The t at which B(t) = `b`, in a form that loses no digits near 0."""
        slope = (self.beta_max - self.beta_min) / self.T
        return 2 * b / (self.beta_min + (self.beta_min**2 + 2 * slope * b).sqrt())

    @takes_numbers
    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.integrated_beta(t))

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)


@dataclass(frozen=True)
class VP(LinearBeta):
    """The variance-preserving (VP) process, the continuous limit of DDPM's chain:

        dx = -beta/2 x dt + sqrt(beta) dw,    alpha = exp(-B/2),    sigma^2 = 1 - exp(-B).

    beta(t) grows linearly, and B(t) is its integral from 0 to t, see `LinearBeta`. Data of variance 1 keep this
    variance at all times. Song et al. (2021), eq. 11 and 33.

    Args:
        beta_min, beta_max, T: the rates of noise at t = 0 and at the end time T, see `LinearBeta`.

    Raises:
        ValueError: if a parameter is not positive, or beta_max is below beta_min.
    """

    @takes_numbers
    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integrated_beta(t))).sqrt()

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.integrated_beta(t)).log()

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.t_from_integrated_beta(softplus(-log_snr, threshold=50.0))


@dataclass(frozen=True)
class SubVP(LinearBeta):
    """The sub-VP process, whose noise is below that of `VP` at every t > 0:

        dx = -beta/2 x dt + sqrt(beta (1 - exp(-2B))) dw,    alpha = exp(-B/2),    sigma = 1 - exp(-B).

    beta(t) grows linearly, and B(t) is its integral from 0 to t, see `LinearBeta`. Song et al. (2021), eq. 12 and 29.

    Args:
        beta_min, beta_max, T: the rates of noise at t = 0 and at the end time T, see `LinearBeta`.

    Raises:
        ValueError: if a parameter is not positive, or beta_max is below beta_min.
    """

    @takes_numbers
    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integrated_beta(t))

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        return (-self.beta(t) * torch.expm1(-2 * self.integrated_beta(t))).sqrt()

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        b = self.integrated_beta(t)
        return -b - 2 * (-torch.expm1(-b)).log()

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        # sigma/alpha = exp(B/2) - exp(-B/2) = 2 sinh(B/2)
        return self.t_from_integrated_beta(2 * torch.asinh(0.5 * torch.exp(-0.5 * log_snr)))


@dataclass(frozen=True)
class CosineVP(GaussianSDE):
    """Variance preserving with alpha(t) = cos(a(t)) / cos(a(0)), a = pi/2 (t + offset)/(1 + offset).

    Nichol & Dhariwal (2021), eq. 17, whose alpha-bar is our alpha^2. alpha vanishes at t = 1, where the drift is
    infinite. Lu et al. (2022a) stop at the default T = 0.9946.

    Args:
        offset: Nichol & Dhariwal's s.
        T: end time, below 1.

    Raises:
        ValueError: if a parameter is not positive, or T is not below 1.
    """

    offset: Annotated[float, Range(above=0, most=10)] = 0.008
    T: Annotated[float, Range(above=0, below=1)] = 0.9946

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def _start(self) -> float:
        """The angle a(0), in radians."""
        return 0.5 * math.pi * self.offset / (1 + self.offset)

    def _angle(self, t: Tensor) -> Tensor:
        """The angle a(t), in radians."""
        return 0.5 * math.pi / (1 + self.offset) * t + self._start

    @takes_numbers
    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._angle(t)) / math.cos(self._start)

    @takes_numbers
    def sigma(self, t: Tensor) -> Tensor:
        # cos^2 a(0) - cos^2 a(t) = sin(a(t) - a(0)) sin(a(t) + a(0)), which loses no digits near t = 0.
        advance = 0.5 * math.pi / (1 + self.offset) * t
        return (torch.sin(advance) * torch.sin(advance + 2 * self._start)).sqrt() / math.cos(self._start)

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi / (1 + self.offset) * torch.tan(self._angle(t))

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        return (-2 * self.f(t)).sqrt()

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        # With the angles a at t and a0 at 0, sin(a - a0) sin(a + a0) = cos^2(a0) sigma^2 gives sin(a - a0).
        alpha, variance = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr)
        sin0, cos0 = math.sin(self._start), math.cos(self._start)
        sin_a = (sin0**2 + cos0**2 * variance).sqrt()
        sine = cos0 * variance / (sin_a + sin0 * alpha)
        advance = torch.atan2(sine, cos0**2 * alpha + sin0 * sin_a)
        return advance * 2 * (1 + self.offset) / math.pi


@dataclass(frozen=True)
class OrnsteinUhlenbeck(GaussianSDE):
    """dx = -rate x dt + std sqrt(2 rate) dw, with stationary density N(0, std^2 I).

        alpha = exp(-rate t),    sigma^2 = std^2 (1 - exp(-2 rate t)).

    Uhlenbeck & Ornstein (1930). It is the Langevin SDE of a normal density. With std = 1 it is VP with a constant
    beta = 2 rate.

    Args:
        rate: speed of mean reversion, per unit time.
        std: standard deviation of the stationary density, in the units of x.
        T: end time.

    Raises:
        ValueError: if a parameter is not positive.
    """

    rate: Positive = 1.0
    std: Positive = 1.0
    T: Positive = 5.0

    def __post_init__(self) -> None:
        check_fields(self)

    @takes_numbers
    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.rate * t)

    @takes_numbers
    def sigma(self, t: Tensor) -> Tensor:
        return self.std * (-torch.expm1(-2 * self.rate * t)).sqrt()

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        return torch.full_like(t, -self.rate)

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.std * math.sqrt(2 * self.rate))

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.rate * t).log() - 2 * math.log(self.std)

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return softplus(-log_snr - 2 * math.log(self.std), threshold=50.0) / (2 * self.rate)
