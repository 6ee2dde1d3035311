"""What a table that people bring has to be: what is wrong is one line, which names the column and the row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.validation import validate_data

from backdrift.sde.value_types import got

LARGEST = 1e150
"""The largest magnitude of a number, and one over the least spread of a column. Beyond, squares leave float64."""

ENCODE = "encode it as numbers, or use TableDensity, which takes categories"
"""What to do with a column of texts, categories or booleans."""

TIMES = (date, time, timedelta, np.datetime64, np.timedelta64)
"""What dates, times and durations are in Python and NumPy. Those of pandas are of these, except for periods."""


def numbers_of(estimator: Any, X: Any, features: bool = False, reset: bool = True, **options: Any) -> np.ndarray:
    """A table as float64 `[n, columns]`, by scikit-learn's `validate_data`, with messages that name the column.

    Args:
        estimator: whose table it is.
        X: the table.
        features: whether the columns are what a density is conditioned on. NaN then stands for a missing number, and
            booleans are the numbers 0 and 1. Otherwise both are refused.
        reset: whether it is the table of the fit. Otherwise its columns have to be those of the fit.
        options: of `validate_data`.

    Raises:
        ValueError: if it is no table of finite numbers, or `validate_data` refuses it.
    """
    X = on_cpu(X)
    columns = check_columns("X", X)
    for k, column in enumerate(columns):
        what = called("X", k, getattr(column, "name", None))
        check_quantity(what, column, features)
        check_numbers(what, column, features)
    check_labels(estimator, X, reset)
    checked = validate_data(
        estimator, X, dtype=np.float64, ensure_all_finite="allow-nan" if features else True, reset=reset, **options
    )
    return np.ascontiguousarray(checked)  # torch takes no rows in reverse


def check_labels(estimator: Any, X: Any, reset: bool) -> None:
    """Refuse a frame whose labels are not those of the fit. Of labels that are all texts scikit-learn does so.

    Raises:
        ValueError: which says what labels there are.
    """
    labels = [str(label) for label in getattr(X, "columns", ())]
    if reset:
        estimator._labels = labels
    fitted = getattr(estimator, "_labels", [])
    if not all(isinstance(label, str) for label in getattr(X, "columns", ())):
        require_order("X", labels or None, fitted or None)


def require_order(name: str, labels: Sequence[str] | None, fitted: Sequence[str] | None, what: str = "columns") -> None:
    """Refuse names that are not those of the fit in their order. None stands for no names, of which nothing is known.

    Raises:
        ValueError: which says what they are.
    """
    if labels is not None and fitted is not None and list(labels) != list(fitted):
        raise ValueError(
            f"{name}: expected the {what} of the fit in their order, {', '.join(fitted[:8])}, got "
            f"{', '.join(labels[:8])}"
        )


def check_quantity(what: str, column: Any, booleans: bool, advice: str = ENCODE) -> None:
    """Refuse a column of texts or categories, and of booleans where they are not taken, though they may look like
    numbers: a density of them would be another one than was meant. A sparse column of pandas is refused as well.

    Raises:
        ValueError: which says what to do.
    """
    dtype = str(getattr(column, "dtype", "")).lower()
    kind = getattr(getattr(column, "dtype", None), "kind", "")
    if dtype in ("category", "categorical", "enum") or dtype.startswith(("categorical(", "enum(")):
        raise ValueError(f"{what} holds categories, expected numbers; {advice}")
    if dtype.startswith("sparse["):
        raise ValueError(f"{what} is sparse, expected dense numbers; frame.sparse.to_dense() makes it dense")
    if not booleans and (kind == "b" or dtype in ("bool", "boolean")):
        raise ValueError(f"{what} holds booleans, which have no density, expected numbers; leave it out, or {advice}")
    values = np.asarray(column)
    for row, value in enumerate(values.tolist() if values.dtype.kind in "OUST" else []):
        if isinstance(value, (str, bytes)) or (isinstance(value, bool) and not booleans):
            raise ValueError(f"{what} holds {value!r} in row {row}, expected numbers; {advice}")


def on_cpu(value: Any) -> Any:
    """A tensor of torch as one that NumPy takes, and anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return value.float() if value.dtype == torch.bfloat16 else value


def check_pairing(name: str, one: Any, other_name: str, other: Any) -> None:
    """Refuse two tables of pandas that have the same labels of rows in another order: rows are paired by their place.

    Raises:
        ValueError: which says what to do.
    """
    if not (hasattr(one, "iloc") and hasattr(other, "iloc")):
        return
    rows, others = one.index, other.index
    if rows.is_unique and others.is_unique and not rows.equals(others) and set(rows) == set(others):
        raise ValueError(
            f"{other_name}: expected rows in the order of {name}, got the same labels of rows (index) in another "
            f"order; {other_name}.loc[{name}.index] puts them in order"
        )


def plain_table(X: Any) -> Any:
    """A frame of polars as one of pandas, a tensor as one that NumPy takes, and lists with texts as an array of
    objects. Anything else stays as it is.

    Of lists NumPy would write the numbers beside texts as texts, so that 1 and 1.0 were two levels.

    Raises:
        ValueError: if there is a frame of polars and pandas is not installed.
    """
    if isinstance(X, (list, tuple)) and _array("X", X).dtype.kind in "US":
        return np.array(X, dtype=object)
    if not hasattr(X, "get_column"):
        return on_cpu(X)
    try:
        import pandas
    except ImportError:
        raise ValueError(f"X: expected an array, since pandas is not installed, got {got(X)}") from None
    return pandas.DataFrame({name: X.get_column(name).to_list() for name in X.columns})


def refuse_masked(name: str, value: Any) -> None:
    """Refuse a masked array: its masked numbers would be taken for known ones.

    Raises:
        ValueError: which says how many there are.
    """
    if np.ma.is_masked(value):
        raise ValueError(
            f"{name}: expected an array without masked numbers, got {int(np.ma.count_masked(value))} of them; "
            f"numpy.ma.filled({name}, numpy.nan) makes them missing ones"
        )


def missing_values(values: np.ndarray) -> np.ndarray:
    """Which values are None or NaN, or pandas' NA or NaT."""
    # NaN and pandas' NaT differ from themselves; comparing pandas' NA gives NA, which is neither true nor false.
    return np.array([v is None or str(v) in _MISSING or _is_no_decimal(v) for v in values], dtype=bool)


_MISSING = ("<NA>", "nan", "NaT")


def _is_no_decimal(value: Any) -> bool:
    """Whether a value is the NaN of Python's decimal numbers. (The text "NaN" is a text.)"""
    return isinstance(value, Decimal) and value.is_nan()


def check_columns(name: str, X: Any) -> list[np.ndarray]:
    """The columns of a table, or none where scikit-learn is to say what is wrong.

    Raises:
        ValueError: if it has one axis alone, holds complex or masked numbers, or two of its columns have one name.
    """
    if issparse(X):
        return []
    refuse_masked(name, X)
    if hasattr(X, "columns") and hasattr(X, "iloc"):
        twice = list(X.columns[X.columns.duplicated(keep=False)])
        if twice:
            raise ValueError(f"{name}: expected different names of columns, got {twice[0]!r} twice")
        columns = [X.iloc[:, k] for k in range(X.shape[1])]
    elif hasattr(X, "get_column"):  # a frame of polars
        columns = [X.get_column(label) for label in X.columns]
    else:
        array = _array(name, X)
        first = X if array.ndim == 0 else array[0] if array.ndim == 1 and len(array) else None
        if array.ndim == 0 or isinstance(first, dict):
            advice = "; pandas.DataFrame makes one of dictionaries" if isinstance(first, dict) else ""
            raise ValueError(f"{name}: expected a table [n, columns], got {type(X).__name__}{advice}")
        if np.iscomplexobj(array):
            raise ValueError(f"{name}: expected real numbers, got complex ones. Complex data not supported")
        if array.ndim == 1 and array.dtype.kind != "O":
            raise ValueError(
                f"{name}: expected a table [n, columns], got shape {list(array.shape)}. Reshape your data: X[:, None] "
                "is one column, X[None] one row"
            )
        columns = list(array.T) if array.ndim == 2 else []
    return columns


def _array(name: str, value: Any) -> np.ndarray:
    """An array of what may be lists.

    Raises:
        ValueError: if lists in it are of different lengths.
    """
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected rows of one length, got some of different lengths") from None


def check_numbers(what: str, column: Any, missing: bool = False, rows: np.ndarray | None = None) -> None:
    """Refuse a column that does not hold finite numbers.

    Args:
        what: the name of the column in messages.
        column: its values, a Series of pandas or an array.
        missing: whether NaN and None stand for missing numbers.
        rows: the number of the row of each value, where they are some of a table's; by default they are all.

    Raises:
        ValueError: if it holds dates, words, infinite or missing numbers, or such whose squares leave float64.
    """
    values, rows = np.asarray(column), np.arange(len(column)) if rows is None else rows
    check_times(what, values)
    try:
        numbers = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        _refuse_words(what, values, rows)
        return
    absent, infinite = np.isnan(numbers), np.isinf(numbers)
    if infinite.any():
        first = int(infinite.argmax())
        raise ValueError(f"{what} holds {numbers[first]:g} in row {rows[first]}, expected finite numbers")
    if absent.any() and not missing:
        raise ValueError(
            f"{what} holds NaN in {int(absent.sum())} of its {len(numbers)} rows, the first is row "
            f"{rows[int(absent.argmax())]}; remove these rows, or use TableDensity, which takes missing numbers"
        )
    check_magnitude(what, numbers[~absent])


def check_magnitude(what: str, numbers: np.ndarray) -> None:
    """Refuse known numbers whose squares leave float64."""
    far = np.abs(numbers) > LARGEST
    if far.any():
        raise ValueError(
            f"{what} holds {numbers[far][0]:g}, expected magnitudes of at most {LARGEST:g}; write it in another unit"
        )
    if len(numbers) > 1 and 0 < np.ptp(numbers) < 1 / LARGEST:
        raise ValueError(
            f"{what} has values that differ by {np.ptp(numbers):g}, expected at least {1 / LARGEST:g}; write it in "
            "another unit"
        )


def check_times(what: str, values: np.ndarray, otherwise: str = "") -> None:
    """Refuse dates, times and durations, with advice on what else may be done.

    Raises:
        ValueError: if one of them is.
    """
    timed = values[:1] if values.dtype.kind in "mM" else values[_are_times(values)]
    if len(timed):
        first = timed[0]
        raise ValueError(
            f"{what} holds dates or times such as {first}, expected numbers; write them as numbers, such as days since "
            f"the first{otherwise}"
        )


def _are_times(values: np.ndarray) -> np.ndarray:
    """Which values of a column of objects are dates, times or durations, `[n]`. NaT is a missing value."""
    objects = values if values.dtype.kind == "O" else ()
    found = [(isinstance(v, TIMES) or type(v).__name__ == "Period") and str(v) != "NaT" for v in objects]
    return np.array(found or [False] * len(values), dtype=bool)


def _refuse_words(what: str, values: np.ndarray, rows: np.ndarray) -> None:
    """Name the first value that is a word. Of other objects scikit-learn says what is wrong."""
    for row, value in zip(rows.tolist(), values.tolist(), strict=True):
        if isinstance(value, (str, bytes)):
            try:
                float(value)
            except ValueError:
                raise ValueError(f"{what} holds {value!r} in row {row}, expected numbers") from None


def called(name: str, k: int, label: Any = None) -> str:
    """A column in messages."""
    return f"{name}: feature {k}" if label is None else f"{name}: feature {k} ({label!r})"


def dependent_column(standard: np.ndarray) -> int | None:
    """The number of a column that is a linear function of the others to rounding; None if there is none.

    Args:
        standard: rows whose columns have mean 0 and variance 1, `[n, d]`. With at most d + 1 rows nothing can be said.
    """
    n, d = standard.shape
    if d < 2 or n <= d + 1:
        return None
    variances, axes = np.linalg.eigh(standard.T @ standard / n)
    return int(np.abs(axes[:, 0]).argmax()) if variances[0] < 1e-12 else None


def check_targets(y: Any) -> None:
    """Refuse targets that have no density: dates, words, booleans and categories, infinite and missing ones.

    Raises:
        ValueError: which says what there is.
    """
    y = on_cpu(y)
    dtypes = getattr(y, "dtypes", None)
    kinds = [] if dtypes is None else [str(kind) for kind in (dtypes if hasattr(y, "columns") else [dtypes])]
    refuse_masked("y", y)
    array = _array("y", y)
    if "category" in kinds or "bool" in kinds or "boolean" in kinds or array.dtype.kind == "b":
        raise ValueError("y: expected numbers, got categories or booleans; classes are for a classifier, and have no "
                         "density")  # fmt: skip
    if array.ndim == 0:
        # scikit-learn's check of estimators looks for the words after the comma.
        none = ", so that it requires y to be passed, but the target y is None" if y is None else ""
        shown = type(y).__name__ if isinstance(y, dict) else got(array.item())
        raise ValueError(f"y: expected targets [n] or [n, targets], got {shown}{none}")
    columns = check_columns("y", y) if array.ndim == 2 else [y if hasattr(y, "iloc") else array]
    for k, column in enumerate(columns if array.ndim < 3 else []):
        _check_target(called("y", k), column)


def _check_target(what: str, column: Any) -> None:
    """Refuse a target that holds something else than finite numbers."""
    values = np.asarray(column)
    if np.iscomplexobj(values):
        raise ValueError("y: expected real numbers, got complex ones. Complex data not supported")
    check_times(what, values)
    check_quantity(what, column, booleans=False)
    absent = missing_values(values) if values.dtype.kind == "O" else np.isnan(values)
    if absent.any():
        raise ValueError(
            f"{what} holds NaN in {int(absent.sum())} of its {len(values)} rows, the first is row "
            f"{int(absent.argmax())}; leave these rows out"
        )
    check_numbers(what, values)


def check_levels(name: str, k: int, column: Any) -> None:
    """Refuse a column of complex numbers, lists or other containers, which are neither numbers nor levels.

    Raises:
        ValueError: which names the first of them.
    """
    values = np.asarray(column)
    for row, value in enumerate(values.tolist() if values.dtype.kind in "Oc" else []):
        if isinstance(value, (complex, list, tuple, dict, set, np.ndarray)):
            raise ValueError(
                f"{called(name, k, getattr(column, 'name', None))} holds {got(value)} in row {row}, expected numbers, "
                "texts or booleans"
            )
