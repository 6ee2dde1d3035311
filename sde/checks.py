"""Checks of values that no type states, such as a number below another. Each raises a `ValueError` of one line.

What an argument may be by itself is stated in its type, see `backdrift.sde.arguments`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

from backdrift.sde.value_types import Count, NonNegative, OneOf, Positive, Range, is_integer, is_number, require

__all__ = [
    "is_integer",
    "is_number",
    "require_choice",
    "require_count",
    "require_integer",
    "require_non_negative",
    "require_number",
    "require_positive",
]


def require_positive(**values: object) -> None:
    """Raise unless every value is a finite number above 0."""
    for name, value in values.items():
        require(name, value, Positive)


def require_non_negative(**values: object) -> None:
    """Raise unless every value is a finite number of at least 0."""
    for name, value in values.items():
        require(name, value, NonNegative)


def require_number(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raise unless `value` is a finite number with least <= value <= most and above < value < below.

    Give at most one bound on each side: `least` or `above`, and `most` or `below`.
    """
    require(name, value, Annotated[float, Range(least, most, above, below)])


def require_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise unless `value` is an integer of at least `least`, and at most `most` where that is given."""
    require(name, value, Annotated[int, Range(least, math.inf if most is None else most)])


def require_count(name: str, value: object, word: str | None = None) -> None:
    """Raise unless `value` is a positive integer, or `word` where one is given, such as "exact"."""
    require(name, value, Count if word is None else Count | Annotated[str, OneOf((word,))])


def require_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless `value` is one of `choices`. Strings, numbers and None can be chosen; True is not the number 1."""
    require(name, value, Annotated[object, OneOf(tuple(choices))])
