"""Checks of arguments. Each raises a `ValueError` of one line: the name, what was expected, and what came."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is an int or a float that is not nan. A bool is not a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def is_integer(value: object) -> TypeGuard[int]:
    """Whether `value` is an int. A bool is not an integer, and neither is 2.0."""
    return isinstance(value, int) and not isinstance(value, bool)


def require_positive(**values: object) -> None:
    """Raise unless every value is a finite number above 0."""
    for name, value in values.items():
        if not (is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name}: expected a positive number, got {value!r}")


def require_non_negative(**values: object) -> None:
    """Raise unless every value is a finite number of at least 0."""
    for name, value in values.items():
        if not (is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name}: expected a non-negative number, got {value!r}")


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
    if is_number(value) and abs(value) < math.inf and least <= value <= most and above < value < below:
        return
    if above > -math.inf and below < math.inf:
        bounds = f" between {above:g} and {below:g}"
    elif least > -math.inf and most < math.inf:
        bounds = f" from {least:g} to {most:g}"
    else:
        sides = [f"of at least {least:g}"] if least > -math.inf else []
        sides += [f"above {above:g}"] if above > -math.inf else []
        sides += [f"of at most {most:g}"] if most < math.inf else []
        sides += [f"below {below:g}"] if below < math.inf else []
        bounds = f" {' and '.join(sides)}" if sides else ""
    raise ValueError(f"{name}: expected a number{bounds}, got {value!r}")


def require_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise unless `value` is an integer of at least `least`, and at most `most` where that is given."""
    if is_integer(value) and least <= value and (most is None or value <= most):
        return
    if most is not None:
        expected = f"an integer from {least} to {most}"
    elif least == 0:
        expected = "a non-negative integer"
    else:
        expected = f"an integer of at least {least}"
    raise ValueError(f"{name}: expected {expected}, got {value!r}")


def require_count(name: str, value: object, word: str | None = None) -> None:
    """Raise unless `value` is a positive integer, or `word` where one is given, such as "exact"."""
    if (is_integer(value) and value >= 1) or (word is not None and value == word):
        return
    raise ValueError(f"{name}: expected a positive integer{'' if word is None else f' or {word!r}'}, got {value!r}")


def require_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless `value` is one of `choices`. Strings, numbers and None can be chosen; True is not the number 1."""
    known = tuple(choices)
    if isinstance(value, bool) or value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {value!r}")
