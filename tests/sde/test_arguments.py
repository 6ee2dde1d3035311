"""Types of arguments: what is of a type, the type in words, and the checks of dataclasses and functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from backdrift.sde import VP, CriticallyDamped, Schedule
from backdrift.sde.arguments import argument_kinds, check_fields, checked
from backdrift.sde.value_types import (
    LARGEST_INTEGER,
    Count,
    Filled,
    NonNegative,
    OneOf,
    Positive,
    Range,
    Seed,
    Share,
    Text,
    Tolerance,
    accepts,
    expected,
    is_object,
)
from backdrift.solvers import Adams, Heun, TableSolver


@pytest.mark.parametrize(
    ("kind", "good", "bad", "words"),
    [
        (float, [0, -1.5, 1e15, -(10**15)], [math.nan, math.inf, 1e16, -1e16, 10**400, True, "1", None], "a number"),
        (int, [0, -7, 10**20], [1.0, True, "1"], "an integer"),
        (bool, [True, False], [0, 1, None, "true"], "True or False"),
        (str, ["", "a"], [1, None, ["a"]], "text"),
        (Positive, [1e-300, 3], [0, -1, math.inf], "a positive number"),
        (NonNegative, [0, 0.0], [-1e-300], "a non-negative number"),
        (Share, [0, 0.999], [1, -0.1], "a number of at least 0 and below 1"),
        (Tolerance, [1e-12, 0.5], [0, 1, 1e12], "a number between 0 and 1"),
        (Count, [1, LARGEST_INTEGER], [0, LARGEST_INTEGER + 1, 2.0, True], "a positive integer"),
        (Seed, [0, 5], [-1, 0.5], "a non-negative integer"),
        (Annotated[int, Range(least=2, most=9)], [2, 9], [1, 10], "an integer from 2 to 9"),
        (
            Annotated[float, Range(least=0, infinite=True)],
            [0, math.inf],
            [-1, 1e16, -math.inf],
            "a non-negative number or inf",
        ),
        (Literal["a", "b"], ["a"], ["c", None, 1], "one of a, b"),
        (Annotated[int, OneOf((1, 2))], [1], [3, True, 1.0], "one of 1, 2"),
        (Count | Literal["exact"] | None, [3, "exact", None], [0, "other"], "a positive integer, 'exact' or None"),
        (Sequence[Count], [[], (1, 2)], [[0], "12", 3], "a list, each entry a positive integer"),
        (tuple[Share, Share], [[0, 0.9], (0.5, 0.5)], [[0.9], [0.1, 0.2, 0.3]], "a list of 2, each entry a number of"),
        (Annotated[Sequence[int], Filled()], [[3]], [[], ()], "a list that is not empty, each entry an integer"),
        (Text, ["a", 7], ["", True, 1.5, None], "text"),
        (Callable, [len, VP], [3, "len", None], "a function"),
        (TableSolver, [Heun()], [Heun, VP(), 3, None, {}], "a TableSolver"),
        (Schedule | Positive, [VP(), 4.0], [0, "fast", None], "a Schedule or a positive number"),
    ],
)
def test_a_type_takes_its_values_and_no_others(kind: Any, good: list, bad: list, words: str) -> None:
    assert [value for value in good if not accepts(kind, value)] == []
    assert [value for value in bad if accepts(kind, value)] == []
    assert expected(kind).startswith(words)


def test_objects_are_told_from_plain_data() -> None:
    assert is_object(TableSolver) and is_object(Schedule | Positive) and is_object(Callable[[int], int])
    assert not is_object(Positive | None) and not is_object(Text) and not is_object(Sequence[Count])
    assert expected(TableSolver | None, "keys") == "keys or None"


@dataclass(frozen=True)
class Base:
    """A dataclass that checks its fields."""

    rate: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Derived(Base):
    """A subclass, whose own fields are checked as well."""

    count: Count = 1
    unknown: NoSuchName = None  # type: ignore[name-defined]  # noqa: F821


def test_a_dataclass_checks_the_fields_of_its_subclasses() -> None:
    assert Derived(rate=2, count=3).count == 3
    with pytest.raises(ValueError, match=r"^count: expected a positive integer, got 0$"):
        Derived(count=0)
    with pytest.raises(ValueError, match=r"^rate: expected a positive number, got nan$"):
        Derived(rate=math.nan)
    assert set(argument_kinds(Derived)) == {"rate", "count"}  # an annotation that cannot be read states nothing


def test_a_function_checks_its_arguments_however_they_are_passed() -> None:
    @checked
    def scaled(x: float, *factors: float, by: Positive = 1.0, **more: float) -> float:
        return x * by + len(factors) + len(more)

    assert scaled(2, 3, 4, by=5, other=6) == 13
    for call in (lambda: scaled(2, by=0), lambda: scaled(True)):
        with pytest.raises(ValueError, match=r"^(by|x): expected a (positive )?number, got"):
            call()
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        scaled()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VP(T=1e16), "T: expected a positive number, got 1e+16, which is above 1e+15 in magnitude"),
        (lambda: CriticallyDamped(velocity=0), "velocity: expected a number above 0 and of at most 1e+06, got 0"),
        (lambda: Heun(s_noise=-0.5), "s_noise: expected a non-negative number, got -0.5"),
        (lambda: Heun(s_min=2, s_max=1), "s_max: expected at least s_min = 2, got 1"),
        (lambda: Heun(data_std=True), "data_std: expected a positive number or None, got True"),
        (lambda: Adams(order=2.25), "order: expected one of 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5 or None, got 2.25"),
        (lambda: Adams(grid=None), "grid: expected one of uniform, quadratic, log_snr, karras, angle, a list, each"),  # type: ignore[arg-type]
    ],
)
def test_python_is_told_the_same_as_a_config(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(said)
