"""Docstrings of what is public: each argument is named, and so is each error that the code itself raises."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache, cached_property
from importlib import import_module

import pytest

ROOMS = (
    "backdrift",
    "backdrift.sde",
    "backdrift.models",
    "backdrift.solvers",
    "backdrift.data",
    "backdrift.posteriors",
    "backdrift.interop",
)


def functions(room: str) -> Iterator[tuple[str, object, str]]:
    """The public functions, classes and methods of a room by name, each with the docstring it is read in.

    A method without a docstring is documented by the base class that it overrides.
    """
    module = import_module(room)
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.isfunction(found):
            yield name, found, found.__doc__ or ""
        elif inspect.isclass(found):
            yield name, found, documentation(found)
            for key, value in vars(found).items():
                inner = value.__func__ if isinstance(value, staticmethod | classmethod) else value
                if inspect.isfunction(inner) and not key.startswith("_"):
                    yield f"{name}.{key}", inner, inspect.getdoc(getattr(found, key)) or ""


def documentation(found: type) -> str:
    """The docstring of a class, and that of each base class whose name stands in it, where inherited arguments are."""
    own = found.__doc__ or ""
    bases = (base for base in found.__mro__[1:-1] if f"`{base.__name__}`" in own)
    return "\n".join([own, *(base.__doc__ or "" for base in bases)])


@cache
def raises(function: object) -> frozenset[str]:
    """The errors that the code of a function raises by name, or that of the constructor of a class."""
    sources = [function]
    if getattr(function, "_is_protocol", False):
        return frozenset()  # typing gives a protocol a constructor that refuses
    if inspect.isclass(function):
        sources = [vars(function)[key] for key in ("__init__", "__post_init__") if key in vars(function)]
    names = set()
    for source in sources:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(source)))  # type: ignore[arg-type]
        except OSError:  # a dataclass makes its constructor without a file
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                names.add(node.exc.func.id)
    return frozenset(names)


def arguments(function: object) -> list[str]:
    """The names of the public arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except ValueError:
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        p.name
        for p in parameters
        if p.name not in ("self", "cls") and not p.name.startswith("_") and p.kind not in kinds
    ]


def explained(text: str) -> set[str]:
    """The names that a docstring explains, as in "rtol, atol: tolerances."""
    listed = re.findall(r"^ *((?:\w+,\s+)*\w+): ", text.replace("*", ""), re.MULTILINE)
    return {name for names in listed for name in re.split(r",\s+", names)}


@pytest.mark.parametrize("room", ROOMS)
def test_arguments_are_explained(room: str) -> None:
    """Every argument of a public function or class. Methods, most of whose arguments are x and t, are left out."""
    missing = {
        name: absent
        for name, function, text in functions(room)
        if "." not in name and (absent := sorted(set(arguments(function)) - explained(text)))
    }
    assert missing == {}


@pytest.mark.parametrize("room", ROOMS)
def test_errors_are_stated(room: str) -> None:
    missing = {
        name: sorted(absent)
        for name, function, text in functions(room)
        if (absent := {error for error in raises(function) if error not in text})
    }
    assert missing == {}


@pytest.mark.parametrize("room", ROOMS)
def test_properties_begin_without_a_colon(room: str) -> None:
    """Of a property's first line "a: b" the site would show a as the type. Colons between backquotes do no harm."""
    module = import_module(room)
    wrong = [
        f"{name}.{key}"
        for name in module.__all__
        if inspect.isclass(found := getattr(module, name))
        for key, value in vars(found).items()
        if not key.startswith("_") and isinstance(value, property | cached_property)
        if re.search(r": .", re.sub(r"`[^`]*`", "", (value.__doc__ or "").split("\n")[0]))
    ]
    assert wrong == []


def test_what_the_two_tests_see() -> None:
    class Base:
        """A base.

        Args:
            steps: number of steps.
        """

    class Derived(Base):
        """Derived. The other arguments are those of `Base`."""

        def __init__(self, steps: int, eta: float) -> None:
            if eta < 0:
                raise ValueError("eta: expected at least 0")

    assert raises(Derived) == {"ValueError"}
    assert arguments(Derived) == ["steps", "eta"]
    assert explained(documentation(Derived)) == {"steps"}
    assert explained("Args:\n    rtol,\n        atol: tolerances.\n    *x: states, and eta.") == {"rtol", "atol", "x"}
    assert "number of steps" not in documentation(type("Silent", (Base,), {"__doc__": "Derived."}))
