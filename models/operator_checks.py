"""Checks of what a measurement is made of: functions of samples that are linear, or that have a derivative."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from backdrift.sde.jacobian import graph_kept

TOLERANCE = 1e-3
"""How far two values that should be equal may be apart, relative to their size. Rounding in float32 is about 1e-6."""


def require_operator(operator: Any) -> None:
    """Raise `TypeError` unless an object has the methods and the shape of a `LinearOperator`."""
    methods = all(callable(getattr(operator, name, None)) for name in ("__call__", "adjoint", "matrix"))
    if isinstance(operator, type) or not methods or not isinstance(getattr(operator, "shape", None), tuple):
        got = f"the class {operator.__name__}" if isinstance(operator, type) else type(operator).__name__
        raise TypeError(f"operator: expected a LinearOperator, got {got}; FunctionOperator(function, shape) makes one")


def require_linear(operator: Any, like: Tensor) -> float:
    """The root mean square of A x for samples x of N(0, 1), of an operator that is one.

    It raises unless the operator is linear, its adjoint is right, and it sees each sample by itself.

    It is applied to two random samples, to their sum and to one of them alone. The adjoint is held against
    <A x, A z> = <x, A^T A z>.

    Args:
        operator: a `LinearOperator`.
        like: the samples have its dtype, if that is float32 or float64, and its device.

    Raises:
        TypeError: if a value is not a real tensor of the dtype of the samples.
        ValueError: if a value has another shape or is not finite, or what is checked does not hold.
    """
    x, z = _samples(operator.shape, like)
    with torch.no_grad():
        seen, other = _values("operator", operator, x), _values("operator", operator, z)
        size = _norms(seen) + 2 * _norms(other)
        if bool((_norms(operator(x + 2 * z) - seen - 2 * other) > TOLERANCE * size).any()):
            raise ValueError("operator: expected a linear function, got one with A(x + 2 z) other than A x + 2 A z")
        _require_own("operator", seen, _values("operator", operator, x[:1]))
        u = torch.stack([seen[0], other[1]])
        back = _values("operator.adjoint", operator.adjoint, u, x)
    off = ((seen * u).flatten(1).sum(1) - (x * back).flatten(1).sum(1)).abs()
    if bool((off > TOLERANCE * _norms(seen) * _norms(u)).any()):
        raise ValueError("operator.adjoint: expected <A x, y> = <x, A^T y> for all x and y, got another function")
    return float(seen.double().square().mean().sqrt())


def require_differentiable(function: Callable[[Tensor], Tensor], shape: Sequence[int], like: Tensor) -> None:
    """Raise unless a function of samples has a derivative that is not 0 everywhere, and sees each sample by itself.

    Args:
        function: from samples `[batch, *shape]` to `[batch, ...]`.
        shape: of one sample.
        like: the samples have its dtype, if that is float32 or float64, and its device.

    Raises:
        TypeError: if it cannot be called, or a value is not a real tensor of the dtype of the samples.
        ValueError: if a value has another shape, or what is checked does not hold at random samples of many sizes, from
            0.01 to 1000.
    """
    if not callable(function):
        raise TypeError(f"function: expected a function of samples, got {type(function).__name__}")
    count = min(256, max(11, 4096 // max(1, math.prod(shape))))
    sizes = torch.logspace(-2, 3, count, dtype=torch.float64, device="cpu").reshape(-1, *(1,) * len(shape))
    x = (sizes * _normal(count, *shape)).to(device=like.device, dtype=probe_dtype(like))
    with graph_kept():
        point = x.clone().requires_grad_()
        seen = _values("function", function, point, finite=False)
        slope = None
        if seen.requires_grad:
            slope = torch.autograd.grad(seen.sum(), point, allow_unused=True)[0]
    if slope is None or not bool((slope != 0).any()):
        raise ValueError("function: expected a differentiable function, got one whose derivative is not known or is 0")
    with torch.no_grad():
        _require_own("function", seen.detach(), _values("function", function, x[:1], finite=False))


def probe_dtype(like: Tensor) -> torch.dtype:
    """The dtype in which an operator is tried: that of `like`, or torch's default for one of few digits or integers."""
    return like.dtype if like.dtype in (torch.float32, torch.float64) else torch.get_default_dtype()


def _samples(shape: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of two samples, N(0, 1)."""
    x, z = _normal(2, 2, *shape).to(device=like.device, dtype=probe_dtype(like))
    return x, z


def _normal(*shape: int) -> Tensor:
    """The same random numbers at each call, so that what is refused once is always refused."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")


def _values(
    name: str, function: Callable[[Tensor], Tensor], x: Tensor, like: Tensor | None = None, finite: bool = True
) -> Tensor:
    """The values of a function, after their kind, their shape and their numbers were looked at."""
    try:
        value = function(x)
    except RuntimeError as error:  # such as torch's, of sizes that do not match
        said = str(error).split("\n")[0]
        raise ValueError(f"{name}: expected a function of a tensor {list(x.shape)}, got the error: {said}") from error
    if not isinstance(value, Tensor) or value.dtype != x.dtype:
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: expected values of {x.dtype} for samples of {x.dtype}, got {got}")
    expected = f"[{len(x)}, m] or [{len(x)}, ...]" if like is None else str(list(like.shape))
    if value.ndim < 2 or len(value) != len(x) or (like is not None and value.shape != like.shape):
        raise ValueError(f"{name}: expected values {expected} for {len(x)} samples, got shape {list(value.shape)}")
    if finite and not bool(value.isfinite().all()):
        raise ValueError(f"{name}: expected finite values for normal samples, got nan or inf")
    return value


def _require_own(name: str, seen: Tensor, alone: Tensor) -> None:
    """Raise unless the first sample has the same value within a batch and alone."""
    same = _norms(seen[:1] - alone) <= TOLERANCE * _norms(alone)
    if not bool((same | alone.isnan().any()).all()):
        raise ValueError(f"{name}: expected a value that depends on its own sample alone, got one that needs its batch")


def _norms(values: Tensor) -> Tensor:
    """The length of each sample, `[batch]`."""
    return values.flatten(1).norm(dim=1)
