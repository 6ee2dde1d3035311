"""Checks of states, times and other tensors. Each message names the argument, what was expected, and what came.

They cost about a microsecond on the host. Values on another device are not looked at, because that is to wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from backdrift.sde.checks import is_integer

MOST = 2**48
"""No tensor has so many numbers."""

Time = Tensor | float
"""A time: a number, a 0-d tensor, or one value per sample, `[batch]`."""


def require_state(x: Tensor, name: str = "x") -> None:
    """Raise unless `x` is a state: `TypeError` if it is no floating-point tensor, `ValueError` if it has no axis.

    A time would be rounded to a whole number in the dtype of a state of integers.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a floating-point tensor [batch, ...], got {got}")
    if x.ndim == 0:
        raise ValueError(f"{name}: expected a tensor [batch, ...], got one without axes")


def require_shape(name: str, value: Tensor, like: Tensor) -> None:
    """Raise `ValueError` unless `value` has the shape of `like`. Another shape might broadcast without a word."""
    if value.shape != like.shape:
        raise ValueError(f"{name}: expected the shape {list(like.shape)}, got {list(value.shape)}")


def require_times(t: Time, T: float, name: str = "t") -> None:
    """Raise unless every time lies in [0, T], up to the rounding with which times are computed.

    Only numbers and tensors on the host are looked at: to look at a tensor on another device is to wait for it. Inside
    of `torch.compile` and `torch.func.vmap` there is nothing to look at.

    Raises:
        ValueError: if a time is nan or lies outside.
        TypeError: if `t` is neither a number nor a tensor of numbers.
    """
    if torch.compiler.is_compiling():
        return
    require_numbers(name, t)
    found = extremes(t)
    if found is None:
        return
    low, high = found
    # A time in float64 may have been rounded to float32 on its way here.
    given = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float32
    rounding = 32 * max(torch.finfo(given).eps, torch.finfo(torch.float32).eps)
    if not (low >= 0 and high <= T * (1 + rounding)):
        raise ValueError(f"{name}: expected times in [0, T = {T:g}], got {high if low >= 0 else low:g}")


def require_numbers(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a number or a tensor of numbers. A bool is not a number."""
    if isinstance(value, Tensor):
        if value.dtype == torch.bool or value.is_complex():
            raise TypeError(f"{name}: expected a number or a tensor of numbers, got a tensor of {value.dtype}")
    elif not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number or a tensor of numbers, got {value!r}")


def extremes(value: Time) -> tuple[float, float] | None:
    """The least and the greatest number in `value`, or None where they cannot be seen without waiting.

    A tensor on another device than the host has to be waited for, an empty one has none, and inside of
    `torch.func.vmap` and `torch.compile` there are no numbers yet.
    """
    if not isinstance(value, Tensor):
        return float(value), float(value)
    if torch.compiler.is_compiling() or value.device.type != "cpu" or value.numel() == 0:
        return None
    value = value.detach() if value.requires_grad else value
    try:
        # NumPy looks at the same memory, without an operation of torch.
        numbers = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    except RuntimeError:
        return None
    return float(numbers.min()), float(numbers.max())


def require_finite(name: str, value: Tensor) -> None:
    """Raise `ValueError` if `value` holds nan or inf, as far as that can be seen without waiting."""
    found = extremes(value)
    if found is not None and not -math.inf < found[0] <= found[1] < math.inf:
        raise ValueError(f"{name}: expected finite numbers, got {'nan' if found[0] != found[0] else 'inf'}")


def require_sizes(shape: Sequence[int], least: int = 1) -> None:
    """Raise `ValueError` unless `shape` holds at least `least` sizes: non-negative integers that a tensor can have."""
    sizes = isinstance(shape, (tuple, list)) and len(shape) >= least and all(is_integer(n) and n >= 0 for n in shape)
    if not sizes or math.prod(shape) >= MOST:
        raise ValueError(f"shape: expected {least} or more sizes, such as (batch, ...), got {shape!r}")
