"""Priors: the normal densities that replace p_T."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from backdrift.sde.matrix import apply, factor


class PriorDensity(Protocol):
    """The density that replaces p_T. Samplers start from it, and likelihoods end at it."""

    def sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws of the given shape `[batch, ...]`."""

    def from_noise(self, noise: Tensor) -> Tensor:
        """Draws made of standard normal numbers, shaped like `noise` `[batch, ...]`."""

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density in nats, `[batch]` for `x` `[batch, ...]`."""


@dataclass(frozen=True)
class Prior:
    """The normal density N(0, std^2 I).

    Args:
        std: standard deviation, in the units of x_T.
    """

    std: float

    def sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws of the given shape `[batch, ...]`."""
        return self.from_noise(torch.randn(shape, generator=generator, dtype=dtype, device=device))

    def from_noise(self, noise: Tensor) -> Tensor:
        """std eps for standard normal eps `[batch, ...]`."""
        return self.std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; 0, std^2 I) in nats, `[batch]` for `x` `[batch, ...]`."""
        x = x.flatten(1)
        return -0.5 * (x / self.std).square().sum(1) - x.shape[1] * (math.log(self.std) + 0.5 * math.log(2 * math.pi))


@dataclass(frozen=True)
class MatrixPrior:
    """The normal density N(0, C) along axis 1 of the state. The entries along the axes after it are independent.

    Args:
        covariance: C, `[d, d]`, positive definite.
    """

    covariance: Tensor

    @functools.cached_property
    def factor(self) -> Tensor:
        """The lower triangular F with F F^T = C, `[d, d]`."""
        return factor(self.covariance)

    def sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws of the given shape `[batch, d, ...]`."""
        return self.from_noise(torch.randn(shape, generator=generator, dtype=dtype, device=device))

    def from_noise(self, noise: Tensor) -> Tensor:
        """F eps for standard normal eps `[batch, d, ...]`."""
        return apply(self.factor, noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; 0, C) in nats, `[batch]` for `x` `[batch, d, ...]`."""
        f = self.factor.to(x)
        z = torch.linalg.solve_triangular(f, x.reshape(*x.shape[:2], -1), upper=False)
        copies = z.shape[2]
        log_det = f.diagonal().log().sum()
        return -0.5 * z.square().sum((1, 2)) - copies * (log_det + 0.5 * len(f) * math.log(2 * math.pi))
