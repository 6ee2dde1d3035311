"""What each column of a table is: a number, a positive number, a share, an angle, a category, or constant."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backdrift.estimators.table_checks import check_times, missing_values, plain_table
from backdrift.sde.value_types import require

KINDS = ("number", "positive", "share", "angle", "category", "constant")

FEW = 20
"""Whole numbers with fewer distinct values are categories."""

ROWS_OF_LEVEL = 5
"""A category has at least so many rows for each of its values, as a mean. Otherwise whole numbers stay numbers."""

COMBINATIONS = 64
"""The density sums over so many combinations of categories exactly. Whole numbers are guessed to be categories as long
as there are no more."""

MOST_COMBINATIONS = 4096
"""The categories of a table have at most so many combinations of values."""

WHOLE = "which are whole numbers"
"""The end of the reason of a column of numbers that is guessed to be a category."""

TURN = 2 * math.pi


@dataclass(frozen=True)
class Column:
    r"""What a column is, and the map of its values v to the real line:

    .. math:: h = v,\quad \log v,\quad \log\frac{v}{1 - v},\quad \log\frac{w}{2\pi - w} \text{ with }
        w = (v - cut) \bmod 2 \pi

    for numbers, positive numbers, shares and angles in radians. The circle is cut where the fitted angles leave the
    largest gap. The density of an angle is 0 at the cut, and its values are in [0, 2 pi).

    Args:
        name: of the column.
        kind: one of `KINDS`.
        reason: why it is of this kind.
        levels: the values of a category in increasing order, or the one value of a constant column.
        cut: where an angle is cut.
    """

    name: str
    kind: str
    reason: str
    levels: tuple[Any, ...] = ()
    cut: float = 0.0

    def forward(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """h and log|dh/dv|. A value outside the range of its kind has h = 0 and a log-slope of minus infinity."""
        if self.kind == "number":
            return v, np.zeros_like(v)
        inside = (v > 0) & (v < (1 if self.kind == "share" else math.inf))
        if self.kind == "angle":
            w, inside = (v - self.cut) % TURN / TURN, np.isfinite(v)
        else:
            w = v
        w = np.where(inside, w, 0.5)
        if self.kind == "positive":
            h, slope = np.log(w), -np.log(w)
        else:
            w = np.clip(w, 1e-300, 1 - 1e-16)
            h, slope = np.log(w) - np.log1p(-w), -np.log(w) - np.log1p(-w)
            slope = slope - (math.log(TURN) if self.kind == "angle" else 0.0)
        missing = np.isnan(v)
        return np.where(missing, np.nan, h), np.where(inside | missing, np.where(missing, 0.0, slope), -np.inf)

    def inverse(self, h: np.ndarray) -> np.ndarray:
        """v."""
        if self.kind == "number":
            return h
        if self.kind == "positive":
            return np.exp(h)
        share = 1 / (1 + np.exp(-h))
        return share if self.kind == "share" else (self.cut + TURN * share) % TURN


def suggest(X: Any, kinds: Mapping[Any, str] | None = None, verbose: bool = True) -> list[Column]:
    """What each column of a table is taken for, and why. The estimators decide by it.

    Texts, booleans and the categories of pandas are categories. So are whole numbers with fewer than 20 distinct values
    and at least five rows for each, as long as the categories have at most 64 combinations. Positive numbers that span
    a factor of ten are taken by their logarithm.

    Args:
        X: a table, `[n, columns]`, or a frame of pandas or polars. NaN and None are missing, and so is the text "nan".
        kinds: the kinds of some columns by their name, or number in a table without names. Shares and angles are
            never guessed.
        verbose: whether to print a line for each column.

    Raises:
        ValueError: if a kind is not known, a column that is named is not there, or values do not fit the kind.
    """
    X = plain_table(X)
    table = X if hasattr(X, "columns") else None
    width = X.shape[1] if table is not None else np.shape(X)[1]
    names = [str(n) for n in table.columns] if table is not None else [f"column {k}" for k in range(width)]
    require("kinds", kinds, dict | None)
    kinds = {str(key) if table is not None else f"column {key}": kind for key, kind in (kinds or {}).items()}
    for key, kind in kinds.items():
        if key not in names:
            if table is None:
                shown = key.removeprefix("column ")
                raise ValueError(f"kinds: expected numbers of columns from 0 to {width - 1}, got {shown}")
            raise ValueError(f"kinds: expected names of columns, got {key!r}; there are {', '.join(names[:8])}")
        if kind not in KINDS:
            raise ValueError(f"kinds: expected one of {', '.join(KINDS)} for {key}, got {kind!r}")
    found = [
        _decided(name, column_values(X, k), kinds.get(name), str(table.dtypes.iloc[k]) if table is not None else "")
        for k, name in enumerate(names)
    ]
    found = _within_combinations(found)
    if verbose:
        for column in found:
            print(f"{column.name}: {column.kind}, since {column.reason}")
    return found


def _within_combinations(columns: list[Column]) -> list[Column]:
    """The columns, of which whole numbers with the most levels are numbers again until 64 combinations remain."""
    columns = list(columns)
    while True:
        count = math.prod(len(column.levels) for column in columns if column.kind == "category")
        guessed = [k for k, column in enumerate(columns) if column.reason.endswith(WHOLE)]
        if count <= COMBINATIONS or not guessed:
            return columns
        k = max(guessed, key=lambda k: len(columns[k].levels))
        why = f"as a category it would make {count} combinations, and at most {COMBINATIONS} are summed over exactly"
        columns[k] = Column(columns[k].name, "number", why)


def column_values(X: Any, k: int) -> np.ndarray:
    """The values of a column of a table, as objects if it is a frame.

    Numbers of single and half precision become those with the fewest digits that are rounded to them: 0.1 is then the
    same level in a table of float32 as in one of float64.
    """
    column: Any = X.iloc[:, k] if hasattr(X, "iloc") else np.asarray(X)[:, k]
    values: np.ndarray = column.to_numpy(dtype=object) if hasattr(X, "iloc") else column
    dtype = str(column.dtype).lower()
    if dtype not in ("float32", "float16"):
        return values
    known = ~missing_values(values)
    short = np.full(len(values), np.nan)
    short[known] = values[known].astype(dtype).astype(str).astype(np.float64)
    return short


def _decided(name: str, values: np.ndarray, asked: str | None, dtype: str) -> Column:
    absent = missing_values(values)
    known = values[~absent]
    if len(known) == 0:
        raise ValueError(f"X: {name} is missing in all {len(values)} rows; leave it out")
    # In an array of texts NumPy itself has written NaN as a text.
    texts = [v for v in values[absent] if type(v) is str]
    if texts:
        warnings.warn(
            f"X: {name} holds the text {texts[0]!r} in {len(texts)} rows, which is taken for a missing value; rename "
            "it if it is a level",
            stacklevel=4,
        )
    if asked != "category":
        check_times(f"X: {name}", known, ", or call it a category with `kinds`")
    # Numbers come first, and values of other types by the name of their type, since they may not be comparable.
    levels = tuple(
        sorted(set(known.tolist()), key=lambda v: ("" if isinstance(v, (int, float)) else type(v).__name__, v))
    )
    if asked == "constant" and len(levels) > 1:
        raise ValueError(f"kinds: {name} is said to be 'constant', so that one value is expected, got {len(levels)}")
    try:
        numbers = np.asarray(known, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = None
    if asked is None and dtype and any(isinstance(v, str) for v in levels):
        numbers = None  # a DataFrame says that these are texts, such as "1" and "2"
    if numbers is not None and np.isinf(numbers).any():
        row = int(np.flatnonzero(~absent)[np.isinf(numbers).argmax()])
        raise ValueError(f"X: {name} holds {float(values[row]):g} in row {row}, expected finite numbers")
    if asked is None and len(levels) == 1:
        return Column(name, "constant", f"all known values are {levels[0]!r}", levels)
    if asked in ("category", "constant"):
        return Column(name, asked, "it was asked for", levels)
    booleans = [v for v in known if isinstance(v, (bool, np.bool_))]
    if numbers is None or dtype in ("category", "bool") or booleans:
        if asked is not None:
            first = next(iter(booleans), known[0]) if numbers is not None else _first_word(known)
            raise ValueError(f"kinds: {name} holds {first!r}, which is no number, so that it cannot be {asked!r}")
        return Column(name, "category", f"its values are {dtype or 'not numbers'}", levels)
    whole = bool((numbers == np.round(numbers)).all())
    if asked is None and whole and len(levels) < FEW and len(known) >= ROWS_OF_LEVEL * len(levels):
        return Column(name, "category", f"it has {len(levels)} distinct values in {len(known)} rows, {WHOLE}", levels)
    return _number(name, numbers, asked)


def _first_word(known: np.ndarray) -> Any:
    """The first value that is no number."""
    for value in known:
        try:
            float(value)
        except (TypeError, ValueError):
            return value
    return known[0]


def _number(name: str, numbers: np.ndarray, asked: str | None) -> Column:
    """The kind of a column of numbers."""
    low, high = float(numbers.min()), float(numbers.max())
    if asked in ("positive", "share") and (low <= 0 or (asked == "share" and high >= 1)):
        expected = "above 0" if asked == "positive" else "between 0 and 1"
        raise ValueError(f"kinds: {name} is said to be {asked!r}, so that values {expected} are expected, got {low:g} "
                         f"to {high:g}")  # fmt: skip
    if asked == "angle" and high - low > 1.001 * TURN:
        raise ValueError(f"kinds: {name} is said to be 'angle', so that radians within one turn of 2 pi are expected, "
                         f"got {low:g} to {high:g}; degrees times pi/180 are radians")  # fmt: skip
    if asked == "angle":
        turned = np.sort(numbers % TURN)
        gaps = np.diff(np.append(turned, turned[0] + TURN))
        cut = float((turned[gaps.argmax()] + gaps.max() / 2) % TURN)
        return Column(name, asked, f"it was asked for; the circle is cut at {cut:.3g}", cut=cut)
    if asked is not None:
        return Column(name, asked, "it was asked for")
    if low > 0 and high >= 10 * low:
        return Column(name, "positive", f"its values are from {low:g} to {high:g}, a factor of ten or more")
    return Column(name, "number", f"it has {len(np.unique(numbers))} distinct values from {low:g} to {high:g}")
