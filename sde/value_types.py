"""Types of values with their ranges, such as `Positive`; whether a value is of a type, and the type in words.

A signature states with them what an argument may be: `steps: Count`, or `share: Annotated[float, Range(above=0,
below=1)]`. See `backdrift.sde.arguments` for the checks that come from it.

A bool is not a number, and neither is nan. A number has a magnitude of at most `LARGEST`, unless
`Range(infinite=True)` says that inf is meant as well. An int may stand for a float, and a list for a tuple or any other
sequence.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeGuard, TypeVar, Union, get_args, get_origin

LARGEST = 1e15
"""The largest magnitude of a number. Its square is finite in float32, in which most states are."""

LARGEST_INTEGER = 2**63 - 1
"""The largest integer that a tensor can hold."""


class Requirement(Protocol):
    """What `Annotated` may hold for an argument beside its type."""

    def holds(self, value: Any, /) -> bool:
        """Whether a value of the type is one that is meant."""

    def words(self, noun: str, /) -> str:
        """What is meant, such as "a positive number", where `noun` is "a number"."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of a number. At most one bound is given on each side.

    Args:
        least, most: the smallest and the largest number in the range.
        above, below: numbers that bound it and are not in it.
        infinite: whether inf is allowed.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    infinite: bool = False

    def holds(self, value: float) -> bool:
        if abs(value) == math.inf:
            return self.infinite and value > 0
        return self.least <= value <= self.most and self.above < value < self.below

    def words(self, noun: str) -> str:
        """The range in words, for the nouns "a number" and "an integer"."""
        bare = noun.split()[-1]
        integer = bare == "integer"
        least, most = max(self.least, self.above), min(self.most, self.below)
        most = math.inf if integer and most == LARGEST_INTEGER else most
        if most == math.inf and (self.above == 0 or (integer and self.least == 1)):
            text = f"a positive {bare}"
        elif most == math.inf and self.least == 0:
            text = f"a non-negative {bare}"
        elif self.above > -math.inf and self.below < math.inf:
            text = f"{noun} between {_figure(least)} and {_figure(most)}"
        elif self.least > -math.inf and most == self.most < math.inf:
            text = f"{noun} from {_figure(least)} to {_figure(most)}"
        else:
            lower = "of at least" if self.least > -math.inf else "above"
            upper = "of at most" if self.most < math.inf else "below"
            sides = [f"{lower} {_figure(least)}"] if least > -math.inf else []
            sides += [f"{upper} {_figure(most)}"] if most < math.inf else []
            text = " ".join([noun, " and ".join(sides)]).strip()
        return f"{text} or inf" if self.infinite else text


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A text, or another value, out of a list, where `Literal` would be too narrow for the type checker.

    Args:
        choices: the values.
    """

    choices: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        return not isinstance(value, bool) and value in self.choices

    def words(self, noun: str) -> str:
        return f"one of {', '.join(map(str, self.choices))}" if len(self.choices) > 1 else repr(self.choices[0])


@dataclasses.dataclass(frozen=True)
class Filled:
    """A list or a text that is not empty.

    Args:
        what: the words for it, by default those of its type.
        least: the smallest number of entries.
    """

    what: str | None = None
    least: int = 1

    def holds(self, value: Any) -> bool:
        return not isinstance(value, (str, list, tuple)) or len(value) >= self.least

    def words(self, noun: str) -> str:
        bare = noun.split(",")[0]
        return self.what or noun.replace(bare, f"{bare} that is not empty", 1)


Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, below=1)]
Tolerance = Annotated[float, Range(above=0, below=1)]
"""Of a step's error, relative or in units in which data and states are of order one."""
Count = Annotated[int, Range(least=1, most=LARGEST_INTEGER)]
NonNegativeCount = Annotated[int, Range(least=0, most=LARGEST_INTEGER)]
Seed = NonNegativeCount
Seed32 = Annotated[int, Range(least=0, most=2**32 - 1)]
"""A seed of numpy's older generator, which scikit-learn uses."""
Text = Annotated[str | int, Filled("text")]
"""A name or a path. One that is a whole number may come as that, as it does from a command line."""


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is an int or a float that is not nan. A bool is not a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def is_integer(value: object) -> TypeGuard[int]:
    """Whether `value` is an int. A bool is not an integer, and neither is 2.0."""
    return isinstance(value, int) and not isinstance(value, bool)


def require(name: str, value: object, kind: Any) -> None:
    """Raise `ValueError` in one line unless a value is of a kind: a type, perhaps with a range.

    Args:
        name: of the argument, which the message begins with.
        value: what came.
        kind: what was expected, as it is written in a signature.
    """
    if not accepts(kind, value):
        raise ValueError(f"{name}: expected {expected(kind)}, got {got(value)}")


def got(value: object) -> str:
    """A value in a message. What is not plain data is named by its class."""
    if is_integer(value) and abs(value) > LARGEST_INTEGER:
        return "one of more than 63 bits"
    if is_number(value) and LARGEST < abs(value) < math.inf and not is_integer(value):
        return f"{value!r}, which is above {LARGEST:g} in magnitude"
    plain = value is None or isinstance(value, (bool, int, float, str, list, tuple, dict))
    text = repr(value) if plain else f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def accepts(kind: Any, value: object) -> bool:
    """Whether a value is of a kind."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        base, *requirements = inner
        return accepts(_infinite(base, requirements), value) and all(mark.holds(value) for mark in requirements)
    if origin in (Union, types.UnionType):
        return any(accepts(one, value) for one in inner)
    if origin is Literal:
        return any(type(one) is type(value) and one == value for one in inner)
    if kind is Any or kind is object or isinstance(kind, TypeVar):
        return True
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return is_number(value) and abs(value) <= LARGEST
    if kind is _NumberOrInfinity:
        return is_number(value) and (abs(value) <= LARGEST or value == math.inf)
    if kind is int:
        return is_integer(value)
    if isinstance(kind, type) and issubclass(kind, (bool, str)):
        return isinstance(value, kind)
    if origin is collections.abc.Callable or kind is Callable:
        return callable(value)
    if _is_sequence(kind):
        return _accepts_sequence(inner, value, fixed=origin is tuple)
    return _accepts_object(origin or kind, value)


def _accepts_sequence(inner: tuple[Any, ...], value: object, fixed: bool) -> bool:
    """Whether a value is a list or tuple of such entries. A type `tuple[A, B]` fixes how many there are."""
    if not isinstance(value, (list, tuple)):
        return False
    if fixed and Ellipsis not in inner:
        return len(value) == len(inner) and all(map(accepts, inner, value))
    return all(accepts(inner[0], entry) for entry in value) if inner else True


def _accepts_object(kind: Any, value: object) -> bool:
    """Whether a value may stand where an object is due. Plain data may not; of a protocol no more can be said."""
    if isinstance(kind, type) and not getattr(kind, "_is_protocol", False):
        return isinstance(value, kind)
    return not (value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)))


def _is_sequence(kind: Any) -> bool:
    kind = get_origin(kind) or kind
    return kind in (list, tuple, Sequence, collections.abc.Iterable)


def is_object(kind: Any) -> bool:
    """Whether an object may be meant, which a config describes by keys with a `_target_`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return is_object(inner[0])
    if origin in (Union, types.UnionType):
        return any(map(is_object, inner))
    if kind in (Any, object) or origin is collections.abc.Callable or kind is Callable:
        return True
    plain = kind in (None, type(None), float, int, bool, str, Path) or origin is Literal or _is_sequence(kind)
    return not plain


def expected(kind: Any, noun_for_objects: str | None = None) -> str:
    """The words for a kind, such as "a positive integer or 'exact'".

    Args:
        kind: the type, perhaps with a range.
        noun_for_objects: what stands for an object of any class, in place of the name of its class.
    """
    parts = list(dict.fromkeys(_words(kind, noun_for_objects)))
    return f"{', '.join(parts[:-1])} or {parts[-1]}" if len(parts) > 1 else parts[0]


def _words(kind: Any, objects: str | None) -> list[str]:
    """The alternatives of a kind in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        words = expected(inner[0], objects)
        for mark in inner[1:]:
            words = mark.words(words)
        return [words]
    if origin in (Union, types.UnionType):
        return [words for one in inner for words in _words(one, objects)]
    if origin is Literal:
        return [f"one of {', '.join(map(str, inner))}"] if len(inner) > 1 else [repr(inner[0])]
    if kind is bool:
        return ["True", "False"]
    names: dict[Any, str] = {
        None: "None", type(None): "None", float: "a number", int: "an integer", str: "text",
        Any: "anything", object: "anything",
    }  # fmt: skip
    if kind in names:
        return [names[kind]]
    if _is_sequence(kind):
        return [_sequence_words(inner, objects, fixed=origin is tuple)]
    if origin is collections.abc.Callable or kind is Callable:
        return [objects or "a function"]
    name = getattr(origin or kind, "__name__", str(kind))
    article = "an" if name[0] in ("AEFHILMNORSX" if name.isupper() else "AEIOU") else "a"  # an SDE, a Solver
    return [objects or f"{article} {name}"]


def _sequence_words(inner: tuple[Any, ...], objects: str | None, fixed: bool) -> str:
    if not inner:
        return "a list"
    if fixed and Ellipsis not in inner:
        entries = list(dict.fromkeys(expected(one, objects) for one in inner))
        return f"a list of {len(inner)}, {'each entry ' if len(entries) == 1 else ''}{', '.join(entries)}"
    return f"a list, each entry {expected(inner[0], objects)}"


class _NumberOrInfinity:
    """Stands for `float` where a range includes inf."""


def _infinite(base: Any, requirements: Sequence[Any]) -> Any:
    return _NumberOrInfinity if base is float and any(getattr(one, "infinite", False) for one in requirements) else base


def _figure(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
