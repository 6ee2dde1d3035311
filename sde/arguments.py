"""What an argument may be is stated once, in its type; the check of its value comes from there.

A dataclass calls `check_fields(self)` in its `__post_init__`. A function or an `__init__` is decorated with `checked`.
The same types tell whether the values of a config may stand, and what `backdrift COMMAND --help` says of them, see
`backdrift.runs.kinds`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, get_type_hints

from backdrift.sde.value_types import require

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@functools.cache
def argument_kinds(made: Any) -> dict[str, Any]:
    """The type of each argument of a class or function, by its name, as far as its annotations can be read."""
    if isinstance(made, type) and dataclasses.is_dataclass(made):
        names = {field.name for field in dataclasses.fields(made) if field.init}
        sources = [(inspect.get_annotations(base), base.__module__) for base in reversed(made.__mro__)]
        kinds: dict[str, Any] = {}
        for annotations, module in sources:
            kinds |= _resolved({name: kind for name, kind in annotations.items() if name in names}, module)
        return kinds
    function = made.__init__ if isinstance(made, type) else made  # type: ignore[misc]
    function = inspect.unwrap(function)
    kinds = _resolved(getattr(function, "__annotations__", {}), getattr(function, "__module__", ""))
    return {name: kind for name, kind in kinds.items() if name != "return"}


def _resolved(annotations: dict[str, Any], module: str) -> dict[str, Any]:
    """Annotations as types. One that names what its module does not have, or has for the type checker only, is left
    out.
    """
    found: dict[str, Any] = {}
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            found |= get_type_hints(holder, vars(sys.modules.get(module, types)), include_extras=True)
        except (NameError, TypeError, AttributeError):
            continue
    return found


def check_fields(made: Any) -> None:
    """Check every field of a dataclass against its type. Called in `__post_init__`, it holds for subclasses as well.

    Raises:
        ValueError: in one line that names the field, what was expected and what came.
    """
    cls: Any = type(made)
    for name, kind in argument_kinds(cls).items():
        require(name, getattr(made, name), kind)


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function, or an `__init__`, that checks its arguments against their types when it is called.

    Raises:
        ValueError: in one line that names the argument, what was expected and what came.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # the function itself says best what is missing or unknown
            return function(*args, **kwargs)
        kinds = argument_kinds(function)
        for name, value in given.items():
            if name in kinds and signature.parameters[name].kind not in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ):
                require(name, value, kinds[name])
        return function(*args, **kwargs)

    return wrapped
