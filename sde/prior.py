"""Priors: the normal densities that replace p_T."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from backdrift.sde.matrix import apply, factor
from backdrift.sde.tensor_checks import require_state


class DataMoments(NamedTuple):
    """The mean and the variance of each component of the data x_0.

    With them the prior has the mean and the variances that the data have at T, see `SDE.prior_for`.

    Attributes:
        mean: m, shaped like a sample, or one number for all components.
        variance: v, like `mean`, not negative.
    """

    mean: Tensor
    variance: Tensor


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


@dataclass(frozen=True, eq=False)
class Prior:
    """The normal density N(mean, std^2), independent for each component.

    Args:
        std: standard deviation in the units of x_T: one number for all components, or a tensor shaped like a sample.
        mean: in the same units, a number or a tensor shaped like a sample.
    """

    std: float | Tensor
    mean: float | Tensor = 0.0

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
        """mean + std eps for standard normal eps `[batch, ...]`."""
        _require_batch(noise, "noise", self.mean, self.std)
        return _like(self.mean, noise) + _like(self.std, noise) * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; mean, std^2) in nats, `[batch]` for `x` `[batch, ...]`."""
        _require_batch(x, "x", self.mean, self.std)
        std = _like(self.std, x)
        z = ((x - _like(self.mean, x)) / std).flatten(1)
        log_std = std.log().expand(x.shape[1:]).sum()
        return -0.5 * z.square().sum(1) - log_std - 0.5 * z.shape[1] * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class MatrixPrior:
    """The normal density N(mean, C) along axis 1 of the state. The entries along the axes after it are independent.

    Args:
        covariance: C, `[d, d]`, positive definite.
        mean: shaped like a state `[d, ...]`, or a number.
    """

    covariance: Tensor
    mean: float | Tensor = 0.0

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
        """mean + F eps for standard normal eps `[batch, d, ...]`."""
        _require_batch(noise, "noise", self.mean)
        return _like(self.mean, noise) + apply(self.factor, noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; mean, C) in nats, `[batch]` for `x` `[batch, d, ...]`.

        Raises:
            ValueError: if x has another shape.
        """
        _require_batch(x, "x", self.mean)
        f = self.factor.to(x)
        if x.shape[1] != len(f):
            raise ValueError(f"x: expected a state [batch, {len(f)}, ...], got shape {list(x.shape)}")
        x = x - _like(self.mean, x)
        z = torch.linalg.solve_triangular(f, x.unsqueeze(2).flatten(2), upper=False)
        copies = z.shape[2]
        log_det = f.diagonal().log().sum()
        return -0.5 * z.square().sum((1, 2)) - copies * (log_det + 0.5 * len(f) * math.log(2 * math.pi))


def _like(value: float | Tensor, x: Tensor) -> Tensor:
    """`value` as a tensor with the dtype and the device of x."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def _require_batch(x: Tensor, name: str, *moments: float | Tensor) -> None:
    """Raise unless x is a batch of states with the shape of every moment, which may differ from sample to sample."""
    require_state(x, name)
    if x.ndim < 2:
        raise ValueError(f"{name}: expected [batch, ...] with at least two axes, got shape {list(x.shape)}")
    for moment in moments:
        shape = moment.shape if isinstance(moment, Tensor) else torch.Size()
        if torch.Size(shape) not in (torch.Size(), x.shape[1:], x.shape):
            expected = ", ".join(["batch", *map(str, shape)])
            raise ValueError(f"{name}: expected shape [{expected}], as the prior has it, got {list(x.shape)}")
