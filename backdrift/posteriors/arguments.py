"""Parameters and observations as they are given: arrays, lists or tensors, of any precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from backdrift.estimators.table_checks import LARGEST


def finite(name: str, value: object) -> Tensor:
    """`value` as a float64 tensor of finite numbers on the CPU.

    Raises:
        ValueError: if it does not hold numbers, or one is not finite.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if issparse(value):
        raise ValueError(f"{name}: expected a dense array, got a sparse one, which is not supported")
    if value is None:
        raise ValueError(f"{name}: expected numbers, got None")
    try:
        given = np.asarray(value)
        if given.dtype.kind in "mM":
            raise ValueError(f"{name}: expected numbers, got dates or times; write them as numbers, such as seconds")
        array = np.asarray(given.real, dtype=np.float64)
    except (TypeError, ValueError) as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: expected numbers, got {type(value).__name__} that holds something else") from None
    if np.iscomplexobj(given):
        raise ValueError(f"{name}: expected real numbers, got complex ones. Complex data not supported")
    if not np.isfinite(array).all():
        rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
        bad = int((~np.isfinite(rows)).any(1).sum())
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinite ones in {bad} of {len(rows)} rows")
    if array.size and (largest := float(np.abs(array).max())) > LARGEST:
        raise ValueError(
            f"{name}: expected numbers of at most {LARGEST:g} in magnitude, got {largest:g}; write them in another unit"
        )
    return torch.from_numpy(array.copy())


def finite_rows(name: str, value: object) -> Tensor:
    """`value` as rows `[n, ...]` of float64 with at least two axes. A vector `[n]` is n rows of one number.

    Raises:
        ValueError: as `finite`, or if it is one number or has no rows.
    """
    rows = finite(name, value)
    if rows.ndim == 0 or rows.numel() == 0:
        raise ValueError(f"{name}: expected rows [n, ...], got shape {list(rows.shape)}")
    return rows[:, None] if rows.ndim == 1 else rows


def simulated(simulator: Callable[[np.ndarray], object], theta: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """What a simulator gives for parameters `[k, d]`: observations `[k, *shape]`, float64.

    Raises:
        ValueError: if it gives another shape or values that are not finite numbers.
    """
    x = finite("simulator", simulator(theta))
    if x.ndim == 1 and tuple(shape) == (1,):
        x = x[:, None]
    if tuple(x.shape) != (len(theta), *shape):
        raise ValueError(f"simulator: expected observations of shape {[len(theta), *shape]}, got {list(x.shape)}")
    return x.numpy()


def observations(x_o: object, shape: Sequence[int], repeated: bool, each: bool) -> Tensor:
    """Observations as flattened rows `[k, size]`, float64, where more than one is refused unless said to be meant.

    Args:
        x_o: `[*shape]` or `[k, *shape]`.
        shape: of a single observation.
        repeated, each: what several observations are. At most one may be true.

    Raises:
        ValueError: if the shape is another one, both are true, or there are several observations and neither is.
    """
    if repeated and each:
        raise ValueError("each: expected False with repeated=True, since observations are one or the other, got True")
    x = finite("x_o", x_o)
    single = tuple(shape)
    if tuple(x.shape) == single:
        x = x[None]
    elif single == (1,) and x.ndim < 2:
        x = x.reshape(-1, 1)
    if tuple(x.shape[1:]) != single or len(x) == 0:
        sizes = ", ".join(map(str, single))
        raise ValueError(f"x_o: expected shape [{sizes}], or [k, {sizes}] with several, got {list(x.shape)}")
    if len(x) > 1 and not (repeated or each):
        raise ValueError(
            f"x_o: expected one observation, got {len(x)}; say repeated=True if they are of the same parameters, or "
            "each=True for a posterior of each"
        )
    return x.flatten(1)
