"""Checks of arguments: what passes, and the one line that tells what does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from backdrift.sde.checks import (
    require_choice,
    require_count,
    require_integer,
    require_non_negative,
    require_number,
    require_positive,
)

NOT_NUMBERS = [True, False, None, "1", [1.0], math.nan]


@pytest.mark.parametrize("check", [require_positive, require_non_negative])
@pytest.mark.parametrize("bad", [*NOT_NUMBERS, -1e-300, math.inf, -math.inf])
def test_what_is_no_number_of_the_right_sign_is_refused(check: Callable[..., None], bad: Any) -> None:
    with pytest.raises(ValueError, match=r"^rate: expected a (positive|non-negative) number, got "):
        check(other=1.0, rate=bad)


def test_zero_is_not_negative_and_not_positive() -> None:
    require_positive(a=1, b=1e-300)
    require_non_negative(a=0, b=0.0, c=10**15)
    with pytest.raises(ValueError, match=r"^b: expected a positive number, got 0$"):
        require_positive(a=1, b=0)


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "expected"),
    [
        ({}, [0, -1e15], [math.inf, 10**16], "a number"),
        ({"least": 0, "most": 1}, [0, 1, 0.5], [-1e-9, 1.1], "a number from 0 to 1"),
        ({"above": 0, "below": 1}, [0.5], [0, 1], "a number between 0 and 1"),
        ({"least": 0, "below": 1}, [0, 0.99], [1, -0.1], "a number of at least 0 and below 1"),
        ({"above": 0, "most": 1}, [1, 0.01], [0, 1.1], "a number above 0 and of at most 1"),
        ({"below": 2}, [-5, 1.99], [2, math.inf], "a number below 2"),
    ],
)
def test_bounds_hold_and_are_told(bounds: dict[str, float], good: list, bad: list, expected: str) -> None:
    for value in good:
        require_number("x", value, **bounds)
    for value in [*bad, *NOT_NUMBERS]:
        with pytest.raises(ValueError) as caught:
            require_number("x", value, **bounds)
        assert str(caught.value) == f"x: expected {expected}, got {value!r}"


@pytest.mark.parametrize(
    ("least", "most", "good", "bad", "expected"),
    [
        (0, None, [0, 7], [-1], "a non-negative integer"),
        (2, None, [2, 10**20], [1], "an integer of at least 2"),
        (0, 40, [0, 40], [-1, 41], "an integer from 0 to 40"),
    ],
)
def test_integers_are_held_to_their_range(least: int, most: int | None, good: list, bad: list, expected: str) -> None:
    for value in good:
        require_integer("n", value, least, most)
    for value in [*bad, *NOT_NUMBERS, 3.0]:
        with pytest.raises(ValueError) as caught:
            require_integer("n", value, least, most)
        assert str(caught.value) == f"n: expected {expected}, got {value!r}"


def test_a_count_may_be_a_word() -> None:
    require_count("draws", 1)
    require_count("probes", "exact", "exact")
    for value in (0, True, 1.0, "every", None):
        with pytest.raises(ValueError) as caught:
            require_count("probes", value, "exact")
        assert str(caught.value) == f"probes: expected a positive integer or 'exact', got {value!r}"
    with pytest.raises(ValueError, match=r"^draws: expected a positive integer, got 'exact'$"):
        require_count("draws", "exact")


def test_choices_are_listed() -> None:
    require_choice("order", 2, (1, 2, None))
    require_choice("order", None, (1, 2, None))
    for value in (3, "2", True):
        with pytest.raises(ValueError) as caught:
            require_choice("order", value, (1, 2, None))
        assert str(caught.value) == f"order: expected one of 1, 2, None, got {value!r}"
