"""Parameters and observations as they are given: arrays, lists or tensors, of any precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from backdrift.estimators.table_checks import (
    LARGEST,
    called,
    check_columns,
    check_quantity,
    check_times,
    missing_values,
    on_cpu,
    refuse_masked,
    require_order,
)
from backdrift.sde.value_types import require

ENCODE = "encode it as numbers"
"""What to do with a column of texts, categories or booleans."""


def numbers(name: str, value: object, booleans: bool = True) -> Tensor:
    """`value` as a float64 tensor on the CPU, which may hold NaN and infinite numbers. NA of pandas becomes NaN.

    Args:
        name: of the argument in messages.
        value: an array, a tensor, a frame or a list.
        booleans: whether booleans count as the numbers 0 and 1.

    Raises:
        ValueError: if it does not hold numbers, or holds masked ones or such whose squares leave float64, or if two
            columns of a frame have one name.
    """
    refuse_masked(name, value)
    value = _of_columns(name, on_cpu(value), booleans)
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
        if not booleans and _some_booleans(given):
            raise ValueError(f"{name}: expected numbers, got booleans, which have no density")
        array = np.asarray(given.real, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # of tensors with gradients in a list
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


def _some_booleans(given: np.ndarray) -> bool:
    """Whether an array holds booleans, perhaps beside numbers."""
    return given.dtype.kind == "b" or (given.dtype.kind == "O" and any(isinstance(v, bool) for v in given.flat))


def _of_columns(name: str, value: Any, booleans: bool) -> Any:
    """A frame `[n, k]` or a series `[n]` of pandas, or a frame of polars, as float64. Anything else stays as it is.

    Each column has a type of its own, and an array of all of them would not show that one holds categories.
    """
    if hasattr(value, "columns") or hasattr(value, "get_column"):
        columns = check_columns(name, value)
        made = [_of_column(called(name, k, getattr(one, "name", None)), one, booleans) for k, one in enumerate(columns)]
        return np.stack(made, 1) if made else np.empty((len(value), 0))
    return _of_column(name, value, booleans) if hasattr(value, "iloc") else value


def _of_column(what: str, column: Any, booleans: bool) -> np.ndarray:
    """A column as float64, NaN where it is missing."""
    values = np.asarray(column)
    check_times(what, values)
    check_quantity(what, column, booleans, ENCODE)
    found = np.full(len(values), np.nan)
    known = ~missing_values(values) if values.dtype.kind == "O" else np.ones(len(values), dtype=bool)
    try:
        if np.iscomplexobj(values):
            raise TypeError
        found[known] = values[known].astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} holds something else, expected real numbers") from None
    return found


def finite(name: str, value: object, booleans: bool = True) -> Tensor:
    """`value` as a float64 tensor of finite numbers on the CPU.

    Raises:
        ValueError: as `numbers`, or if a number is not finite.
    """
    found = numbers(name, value, booleans)
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


def check_bound_labels(prior: object, names: Sequence[str] | None) -> None:
    """Refuse bounds in series of pandas whose labels are not the names of the parameters in their order.

    Raises:
        ValueError: which says what they are.
    """
    for bound in prior if isinstance(prior, (tuple, list)) else ():
        require_order("prior", labels_of(bound), names, "parameters")


def parameter_rows(name: str, value: object) -> Tensor:
    """`value` as parameters `[n, d]`, float64; `[n]` are those of one parameter.

    Raises:
        ValueError: as `finite`, or if there are no rows, they have more than two axes or are booleans.
    """
    rows = _as_rows(name, finite(name, value, booleans=False))
    if rows.ndim != 2:
        raise ValueError(f"{name}: expected shape [n, d], got {list(rows.shape)}")
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
    """`value` as rows `[n, ...]` of float64 with at least two axes, with NaN and infinite numbers where a simulation
    failed. A vector `[n]` is n rows of one number.

    Raises:
        ValueError: as `numbers`, or if it is one number or has no rows.
    """
    return _as_rows(name, numbers(name, value))


def _as_rows(name: str, rows: Tensor) -> Tensor:
    if rows.ndim == 0 or rows.numel() == 0:
        raise ValueError(f"{name}: expected rows [n, ...], got shape {list(rows.shape)}")
    return rows[:, None] if rows.ndim == 1 else rows


def simulated(simulator: Callable[[np.ndarray], object], theta: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """What a simulator gives for parameters `[k, d]`: observations `[k, *shape]`, float64, NaN where it failed.

    Raises:
        ValueError: if it gives another shape or values that are not numbers.
    """
    x = numbers("simulator", simulator(theta.copy()))  # a simulator may change its argument
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
    for what, one in (("repeated", repeated), ("each", each)):
        require(what, bool(one) if isinstance(one, np.bool_) else one, bool)
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
