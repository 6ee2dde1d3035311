"""The tensors and the networks that a model holds, wherever in it they are."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from types import ModuleType

from torch import Tensor, nn

from backdrift.sde.prior import DataMoments
from backdrift.sde.process import SDE

DEPTH = 4
"""How many levels of attributes, collections and closures are searched."""

LEAVES = (SDE, DataMoments, str, int, float, type, ModuleType)
"""What is not searched. The tensors of a process and of the data's moments are not those of a model."""


def tensors_of(holder: object) -> Iterator[Tensor]:
    """The tensors that an object holds, parameters and buffers of modules included. Some may come twice.

    The search covers modules, attributes, bound methods, partial functions, and the variables that a function refers
    to.
    """
    return _tensors(holder, set(), DEPTH)


def modules_of(holder: object) -> Iterator[nn.Module]:
    """The modules that an object holds, and all modules inside of these, each once; see `tensors_of` for the search."""
    return _modules(holder, set(), DEPTH)


def _tensors(holder: object, seen: set[int], depth: int) -> Iterator[Tensor]:
    if isinstance(holder, Tensor):
        yield holder
        return
    if depth == 0 or id(holder) in seen or isinstance(holder, LEAVES):
        return
    seen.add(id(holder))
    if isinstance(holder, nn.Module):
        yield from holder.parameters()
        yield from holder.buffers()
    for part in _parts(holder):
        yield from _tensors(part, seen, depth - 1)


def _modules(holder: object, seen: set[int], depth: int) -> Iterator[nn.Module]:
    if depth == 0 or id(holder) in seen or isinstance(holder, (Tensor, *LEAVES)):
        return
    if isinstance(holder, nn.Module):
        inside = list(holder.modules())
        seen.update(map(id, inside))
        yield from inside
        # Other names begin with _, and hold the modules and tensors that are known already.
        parts: Iterable[object] = [value for name, value in vars(holder).items() if not name.startswith("_")]
    else:
        seen.add(id(holder))
        parts = _parts(holder)
    for part in parts:
        yield from _modules(part, seen, depth - 1)


def _parts(holder: object) -> Iterator[object]:
    """The objects that an object, a collection or a function refers to."""
    if isinstance(holder, (list, tuple)):
        yield from holder
    elif isinstance(holder, dict):
        yield from holder.values()
    elif isinstance(holder, functools.partial):
        yield from (holder.func, *holder.args, *holder.keywords.values())
    elif hasattr(holder, "__self__"):
        yield holder.__self__
    elif hasattr(holder, "__code__") and hasattr(holder, "__globals__"):
        for cell in holder.__closure__ or ():  # type: ignore[attr-defined]
            yield cell.cell_contents
        names = (name for name in holder.__code__.co_names if name in holder.__globals__)
        yield from (value for value in map(holder.__globals__.get, names) if isinstance(value, (Tensor, nn.Module)))
    elif hasattr(holder, "__dict__"):
        yield from list(vars(holder).values())
