"""Parameters and observations as they are given: arrays, lists or tensors, of any precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from backdrift.estimators.table_checks import LARGEST, refuse_masked, require_order


def numbers(name: str, value: object) -> Tensor:
    """`value` as a float64 tensor on the CPU, which may hold NaN and infinite numbers.

    Raises:
        ValueError: if it does not hold numbers, or holds masked ones or such whose squares leave float64.
    """
    refuse_masked(name, value)
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
        if given.dtype.kind in "US" or (given.dtype.kind == "O" and any(isinstance(v, str) for v in given.flat)):
            raise ValueError(f"{name}: expected numbers, got texts")
        array = np.asarray(given.real, dtype=np.float64)
    except (TypeError, ValueError) as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: expected numbers, got {type(value).__name__} that holds something else") from None
    if np.iscomplexobj(given):
        raise ValueError(f"{name}: expected real numbers, got complex ones. Complex data not supported")
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
    if largest > LARGEST:
        raise ValueError(
            f"{name}: expected numbers of at most {LARGEST:g} in magnitude, got {largest:g}; write them in another unit"
        )
    return torch.from_numpy(array.copy())


def finite(name: str, value: object) -> Tensor:
    """`value` as a float64 tensor of finite numbers on the CPU.

    Raises:
        ValueError: as `numbers`, or if a number is not finite.
    """
    found = numbers(name, value)
    if not bool(found.isfinite().all()):
        rows = found.reshape(len(found), -1) if found.ndim else found.reshape(1, 1)
        bad = int((~rows.isfinite()).any(1).sum())
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinite ones in {bad} of {len(rows)} rows")
    return found


def labels_of(value: object) -> tuple[str, ...] | None:
    """The names of the columns of a frame, or those of the numbers of one row of a frame of pandas; otherwise None."""
    labels = getattr(value, "columns", None)
    if labels is None and hasattr(value, "iloc"):  # a series of pandas
        index = list(value.index)  # type: ignore[attr-defined]
        labels = index if all(isinstance(label, str) for label in index) else None
    return None if labels is None else tuple(map(str, labels))


def check_labels(name: str, value: object, fitted: tuple[str, ...] | None) -> None:
    """Refuse a frame whose columns are not those of the fit in their order.

    Raises:
        ValueError: which says what they are.
    """
    require_order(name, labels_of(value), fitted)


def parameter_rows(name: str, value: object) -> Tensor:
    """`value` as parameters `[n, d]`, float64; `[n]` are those of one parameter.

    Raises:
        ValueError: as `finite_rows`, or if they have more than two axes or are booleans.
    """
    rows = finite_rows(name, value)
    if rows.ndim != 2:
        raise ValueError(f"{name}: expected shape [n, d], got {list(rows.shape)}")
    kind = np.asarray(value).dtype.kind if not isinstance(value, Tensor) else "b" if value.dtype == torch.bool else ""
    if kind == "b":
        raise ValueError(f"{name}: expected numbers, got booleans, which have no density")
    return rows


def finished(name: str, x: Tensor, least: int) -> Tensor:
    """Which simulations `[n, ...]` did not fail, `[n]`: those without NaN and infinite numbers.

    Whether a simulation fails is known from what it gave. The posterior given an observation without NaN is therefore
    the same if those that fail are left out.

    Raises:
        ValueError: if fewer than `least` did not fail.

    Warns:
        UserWarning: if some failed, with their number.
    """
    kept = x.isfinite().flatten(1).all(1)
    number, n = int(kept.sum()), len(kept)
    if number < n and number < least:
        raise ValueError(f"{name}: expected finite numbers in at least {least} simulations, got {number} of {n}")
    if number < n:
        warnings.warn(
            f"{name}: {n - number} of {n} simulations hold NaN or infinite numbers and are left out; the posterior "
            "given an observation without any is the same",
            stacklevel=4,
        )
    return kept


def number_rows(name: str, value: object) -> Tensor:
    """`value` as `finite_rows`, but with NaN and infinite numbers where a simulation failed.

    Raises:
        ValueError: as `numbers`, or if it is one number or has no rows.
    """
    return _as_rows(name, numbers(name, value))


def finite_rows(name: str, value: object) -> Tensor:
    """`value` as rows `[n, ...]` of float64 with at least two axes. A vector `[n]` is n rows of one number.

    Raises:
        ValueError: as `finite`, or if it is one number or has no rows.
    """
    return _as_rows(name, finite(name, value))


def _as_rows(name: str, rows: Tensor) -> Tensor:
    if rows.ndim == 0 or rows.numel() == 0:
        raise ValueError(f"{name}: expected rows [n, ...], got shape {list(rows.shape)}")
    return rows[:, None] if rows.ndim == 1 else rows


def simulated(simulator: Callable[[np.ndarray], object], theta: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """What a simulator gives for parameters `[k, d]`: observations `[k, *shape]`, float64, NaN where it failed.

    Raises:
        ValueError: if it gives another shape or values that are not numbers.
    """
    x = numbers("simulator", simulator(theta))
    if x.ndim == 1 and tuple(shape) == (1,):
        x = x[:, None]
    if tuple(x.shape) != (len(theta), *shape):
        raise ValueError(f"simulator: expected observations of shape {[len(theta), *shape]}, got {list(x.shape)}")
    return torch.where(x.isfinite(), x, torch.nan).numpy()


def observations(x_o: object, shape: Sequence[int], repeated: bool, each: bool, name: str = "x_o") -> Tensor:
    """Observations as flattened rows `[k, size]`, float64, where more than one is refused unless said to be meant.

    Args:
        x_o: `[*shape]` or `[k, *shape]`.
        shape: of a single observation.
        repeated, each: what several observations are. At most one may be true.
        name: of the argument in messages.

    Raises:
        ValueError: if the shape is another one, both are true, or there are several observations and neither is.
    """
    if repeated and each:
        raise ValueError("each: expected False with repeated=True, since observations are one or the other, got True")
    x = finite(name, x_o)
    single = tuple(shape)
    if tuple(x.shape) == single:
        x = x[None]
    elif single == (1,) and x.ndim < 2:
        x = x.reshape(-1, 1)
    if tuple(x.shape[1:]) != single or len(x) == 0:
        sizes = ", ".join(map(str, single))
        raise ValueError(f"{name}: expected shape [{sizes}], or [k, {sizes}] with several, got {list(x.shape)}")
    if len(x) > 1 and not (repeated or each):
        raise ValueError(
            f"x_o: expected one observation, got {len(x)}; say repeated=True if they are of the same parameters, or "
            "each=True for a posterior of each"
        )
    return x.flatten(1)
