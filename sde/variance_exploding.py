"""Processes that only add noise: Brownian motion, the variance-exploding SDE, and that of EDM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.sde.arguments import check_fields
from backdrift.sde.gaussian import GaussianSDE, takes_numbers
from backdrift.sde.value_types import Positive


@dataclass(frozen=True)
class Brownian(GaussianSDE):
    """Brownian motion dx = dw, with alpha = 1 and sigma = sqrt(t). Its time is a variance.

    McAllester (2023), eq. 1: z(t) = z(0) + sqrt(t) eps.

    Args:
        T: end time, which is the variance of the noise at the end. sqrt(T) should be well above the width of the data.

    Raises:
        ValueError: if T is not positive.
    """

    T: Positive = 2500.0

    def __post_init__(self) -> None:
        check_fields(self)

    @takes_numbers
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @takes_numbers
    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        return -t.log()

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr)


@dataclass(frozen=True)
class VE(GaussianSDE):
    """Variance exploding: dx = g dw, sigma(t) = sigma_min (sigma_max/sigma_min)^(t/T).

    Song et al. (2021), eq. 9 and 30. The variance of the marginal is sigma(t)^2, as there. So x at t = 0 is not the
    data but the data plus noise of standard deviation sigma_min. The variance that the SDE itself has added by time t
    is sigma(t)^2 - sigma_min^2, and `transition` and `bridge` use that.

    Args:
        sigma_min: standard deviation of the noise at t = 0, in the units of the data.
        sigma_max: standard deviation of the noise at t = T.
        T: end time.

    Raises:
        ValueError: if a parameter is not positive, or sigma_max is not above sigma_min.
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    T: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max: expected more than sigma_min = {self.sigma_min}, got {self.sigma_max}")

    @property
    def _growth(self) -> float:
        """d log(sigma)/dt, per unit time."""
        return math.log(self.sigma_max / self.sigma_min) / self.T

    @takes_numbers
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @takes_numbers
    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._growth * t)

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * self._growth)

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + self._growth * t)

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return ((-0.5 * log_snr - math.log(self.sigma_min)) / self._growth).clamp(min=0)


@dataclass(frozen=True)
class EDM(GaussianSDE):
    """The process of EDM, alpha = 1 and sigma = t: its time is the standard deviation of the noise.

        dx = sqrt(2t) dw

    (Karras et al. 2022, table 1 and eq. 1 with s = 1.) Solvers stop at sigma = 0.002, as there.

    Args:
        T: end time, the standard deviation of the noise at the end, in the units of the data.

    Raises:
        ValueError: if T is not positive.
    """

    T: Positive = 80.0

    def __post_init__(self) -> None:
        check_fields(self)

    @takes_numbers
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @takes_numbers
    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        return (2 * t).sqrt()

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * t.log()

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 * log_snr)
