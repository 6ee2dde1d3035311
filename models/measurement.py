"""Measurements: linear functions of a sample, seen through Gaussian noise."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.models.operators import LinearOperator
from backdrift.models.whitened import Whitened, whitened
from backdrift.sde.tensor_checks import require_finite


def require_value(value: Tensor) -> None:
    """Raise unless what was measured is a tensor of finite numbers.

    Raises:
        TypeError: if it is not a tensor.
        ValueError: if a number is infinite or missing (NaN).
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"value: expected a tensor, got {type(value).__name__}")
    require_finite("value", value)


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A x_0 + noise, with noise N(0, R): what a posterior p(x_0 | y) is conditioned on.

    Args:
        operator: A. It maps samples `[batch, ...]` to measurements `[batch, ...]`.
        value: y, one for all samples, or one for each along a first axis. Without that axis it is shaped like one
            measurement. What was not measured is not in it: the operator leaves it out, as a `Mask` does.
        std: the standard deviation of independent noise, a number or a tensor shaped like one measurement. 0 stands for
            exact values.
        covariance: R, `[m, m]` for m flattened components, in place of `std` where the noise is correlated.

    Raises:
        TypeError: if `value` is not a tensor.
        ValueError: if `value` is not finite or not shaped like a measurement, both or neither of `std` and `covariance`
            are given, a standard deviation is negative, or `covariance` has another shape or is not symmetric and
            positive.
    """

    operator: LinearOperator
    value: Tensor
    std: float | Tensor | None = None
    covariance: Tensor | None = None

    def __post_init__(self) -> None:
        require_value(self.value)
        shape = self.shape
        if tuple(self.value.shape) != shape and tuple(self.value.shape[1:]) != shape:
            raise ValueError(
                f"value: expected shape {list(shape)}, or [batch, {', '.join(map(str, shape))}] with one measurement "
                f"for each sample, got {list(self.value.shape)}"
            )
        if (self.std is None) == (self.covariance is None):
            raise ValueError("std: expected either std or covariance")
        if self.std is not None:
            std = torch.as_tensor(self.std)
            if std.shape not in ((), shape) or not bool((std >= 0).all()):
                raise ValueError(f"std: expected a number of at least 0, or {list(shape)} of them, got {self.std}")
        if self.covariance is not None:
            m, given = self.size, self.covariance
            fits = given.shape == (m, m) and torch.allclose(given, given.mT)
            if not fits or bool(torch.linalg.cholesky_ex(given.double())[1]):
                raise ValueError(
                    f"covariance: expected a symmetric positive matrix [{m}, {m}], got shape {list(given.shape)}"
                )

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one measurement."""
        with torch.no_grad():
            return tuple(self.operator(torch.zeros(1, *self.operator.shape, dtype=self.value.dtype)).shape[1:])

    @property
    def size(self) -> int:
        """m, the number of components of one measurement."""
        return math.prod(self.shape)

    @property
    def each(self) -> bool:
        """Whether there is one measurement for each sample."""
        return self.value.ndim > len(self.shape)

    def select(self, indices: Tensor) -> Measurement:
        """The measurements of the samples at `indices` `[n]`."""
        if not self.each:
            return self
        return Measurement(self.operator, self.value[indices], self.std, self.covariance)

    def residual(self, x: Tensor) -> Tensor:
        """y - A x for samples x, flattened, `[batch, m]`."""
        seen = self.operator(x)
        return (self.value.to(x, non_blocking=True) - seen).flatten(1)

    def adjoint(self, u: Tensor) -> Tensor:
        """A^T u, shaped like samples `[batch, ...]`, for flattened measurements u, `[batch, m]`."""
        return self.operator.adjoint(u.reshape(len(u), *self.shape))

    def noise_covariance(self, like: Tensor) -> Tensor:
        """R, `[m, m]`, with the dtype and on the device of `like`."""
        if self.covariance is not None:
            return self.covariance.to(like, non_blocking=True)
        return self._stds(like).square().diag()

    def noise_product(self, u: Tensor) -> Tensor:
        """R u for flattened measurements u, `[batch, m]`."""
        if self.covariance is not None:
            return u @ self.covariance.to(u, non_blocking=True)
        return self._stds(u).square() * u

    def whitened(self, like: Tensor) -> Whitened:
        """The measurement in the units of its noise, see `whitened`."""
        return whitened(self, like)

    def _stds(self, like: Tensor) -> Tensor:
        """The standard deviation of each component, `[m]`, with the dtype and on the device of `like`."""
        assert self.std is not None
        if isinstance(self.std, Tensor):
            return self.std.to(like, non_blocking=True).expand(self.shape).flatten()
        return torch.full((self.size,), self.std, dtype=like.dtype, device=like.device)

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(y; A x, R) in nats, `[batch]`, for samples x `[batch, ...]`.

        Raises:
            ValueError: if the noise has no density, because it is 0 along some direction.
        """
        residual = self.residual(x)
        if self.std is not None:
            std = self._stds(residual)
            if not bool((std > 0).all()):
                raise ValueError("std: expected positive noise, since exact values have no density")
            z, log_det = residual / std, std.log().sum()
        else:
            root = torch.linalg.cholesky(self.noise_covariance(residual))
            z = torch.linalg.solve_triangular(root, residual.mT, upper=False).mT
            log_det = root.diagonal().log().sum()
        return -0.5 * z.square().sum(1) - log_det - 0.5 * self.size * math.log(2 * math.pi)
