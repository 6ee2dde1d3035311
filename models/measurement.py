"""Measurements: linear functions of a sample, seen through Gaussian noise."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.models.operator_checks import probe_dtype, require_linear, require_operator
from backdrift.models.operators import LinearOperator
from backdrift.models.whitened import Whitened, whitened
from backdrift.sde.tensor_checks import require_finite

LARGEST = 1e9
"""Of the values A x for normal x in float32, and its inverse is the least. Linear solvers take their fourth powers."""


def require_value(value: Tensor) -> None:
    """Raise unless what was measured is a tensor of finite numbers.

    Raises:
        TypeError: if it is not a tensor of real numbers.
        ValueError: if a number is infinite or missing (NaN).
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"value: expected a tensor, got {type(value).__name__}")
    if value.is_complex():
        raise TypeError(f"value: expected real numbers, with imaginary parts as components, got {value.dtype}")
    require_finite("value", value)


def require_samples(x: Tensor, shape: Sequence[int], values: int | None) -> None:
    """Raise unless samples x fit a measurement. Others might be broadcast without a word.

    Args:
        x: samples, `[batch, ...]`.
        shape: of one sample that is measured.
        values: how many measurements there are, one for each sample; None or 1 if all samples share one.

    Raises:
        TypeError: if x is not of float32 or float64. Half precision is too coarse for the linear systems of guides.
        ValueError: if x has another shape, or not as many samples as there are measurements.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x: expected samples of float32 or float64, got {x.dtype}; only the network may be in half")
    if tuple(x.shape[1:]) != tuple(shape):
        expected = ", ".join(map(str, ("batch", *shape)))
        raise ValueError(f"x: expected samples [{expected}], as the measurement has it, got {list(x.shape)}")
    if values not in (None, 1, len(x)):
        raise ValueError(f"x: expected {values} samples, as there is a measurement for each, got {len(x)}")


def noise_numbers(name: str, given: object) -> Tensor:
    """A standard deviation or a covariance as a tensor.

    Raises:
        TypeError: if it does not hold real numbers.
    """
    try:
        numbers = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a number or a tensor of numbers, got {type(given).__name__}") from error
    if numbers.dtype == torch.bool or numbers.is_complex():
        got = f"a tensor of {numbers.dtype}" if isinstance(given, Tensor) else repr(given)
        raise TypeError(f"{name}: expected a number or a tensor of numbers, got {got}")
    return numbers


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A x_0 + noise, with noise N(0, R): what a posterior p(x_0 | y) is conditioned on.

    The operator is tried on two random samples: whether it is linear, sees each sample by itself, and has the right
    adjoint.

    Args:
        operator: A. It maps samples `[batch, ...]` to measurements `[batch, ...]`.
        value: y, one for all samples, or one for each along a first axis. Without that axis it is shaped like one
            measurement. What was not measured is not in it: the operator leaves it out, as a `Mask` does.
        std: the standard deviation of independent noise, a number or a tensor shaped like one measurement. 0 stands for
            exact values.
        covariance: R, `[m, m]` for m flattened components, in place of `std` where the noise is correlated.

    Raises:
        TypeError: if `operator` is not one, `value` is not a tensor of real numbers, or the noise is not of numbers.
        ValueError: if `value` is not finite or not shaped like a measurement, both or neither of `std` and `covariance`
            are given, a standard deviation is negative or infinite, `covariance` has another shape or is not symmetric
            and positive definite, or the operator is not linear or its adjoint is wrong.
    """

    operator: LinearOperator
    value: Tensor
    std: float | Tensor | None = None
    covariance: Tensor | None = None

    def __post_init__(self) -> None:
        require_operator(self.operator)
        require_value(self.value)
        object.__setattr__(self, "_size_of_values", require_linear(self.operator, self.value))
        shape = self.shape
        if tuple(self.value.shape) != shape and tuple(self.value.shape[1:]) != shape:
            raise ValueError(
                f"value: expected shape {list(shape)}, or [batch, {', '.join(map(str, shape))}] with one measurement "
                f"for each sample, got {list(self.value.shape)}"
            )
        if (self.std is None) == (self.covariance is None):
            raise ValueError("std: expected either std or covariance")
        if self.std is not None:
            std = noise_numbers("std", self.std)
            if std.shape not in ((), shape) or not bool(((std >= 0) & std.isfinite()).all()):
                raise ValueError(
                    f"std: expected a number of at least 0, or {list(shape)} of them, got {numbers_told(std)}"
                )
            if not isinstance(self.std, (int, float)):
                object.__setattr__(self, "std", std)  # a list or an array
        if self.covariance is not None:
            covariance = noise_numbers("covariance", self.covariance)
            _require_covariance(covariance, self.size)
            object.__setattr__(self, "covariance", covariance)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one measurement."""
        with torch.no_grad():
            value = self.value
            zero = torch.zeros(1, *self.operator.shape, dtype=probe_dtype(value), device=value.device)
            return tuple(self.operator(zero).shape[1:])

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
        if not self.each or len(self.value) == 1:
            return self
        other = copy.copy(self)  # what was checked of this one holds for it as well
        object.__setattr__(other, "value", self.value[indices])
        return other

    def residual(self, x: Tensor) -> Tensor:
        """y - A x for samples x, flattened, `[batch, m]`.

        Raises:
            TypeError: if x is not of float32 or float64.
            ValueError: if x does not have the shape of the operator's samples, there is one y for each of other than
                `batch` samples, or A x is too large or small for float32, see `LARGEST`.
        """
        require_samples(x, self.operator.shape, len(self.value) if self.each else None)
        typical: float = self.__dict__["_size_of_values"]
        if x.dtype == torch.float32 and typical and not 1 / LARGEST <= typical <= LARGEST:
            raise ValueError(
                f"measurement: expected A x from {1 / LARGEST:g} to {LARGEST:g} for normal x in float32, got "
                f"{typical:.1g}; divide y, A and the noise by one unit, or take samples of float64"
            )
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


def _require_covariance(given: Tensor, m: int) -> None:
    """Raise `ValueError` unless a covariance is a symmetric positive definite matrix `[m, m]`."""
    expected = f"covariance: expected a symmetric positive definite matrix [{m}, {m}]"
    if given.shape != (m, m):
        raise ValueError(f"{expected}, got shape {list(given.shape)}")
    if not bool(given.isfinite().all()):
        raise ValueError(f"{expected}, got nan or inf")
    matrix = given.double()
    if not torch.allclose(matrix, matrix.mT):
        raise ValueError(
            f"{expected}, got one that differs from its transpose by {float((matrix - matrix.mT).abs().max()):g}"
        )
    if int(torch.linalg.cholesky_ex(matrix)[1]):
        raise ValueError(f"{expected}, got one with the eigenvalue {float(torch.linalg.eigvalsh(matrix)[0]):g}")


def numbers_told(numbers: Tensor) -> str:
    """A tensor in a line: its number, or its shape and its extremes."""
    if numbers.ndim == 0:
        return f"{float(numbers):g}"
    if numbers.numel() == 0:
        return f"shape {list(numbers.shape)}"
    return f"shape {list(numbers.shape)} with numbers from {float(numbers.min()):g} to {float(numbers.max()):g}"
