"""A solver as plain data in the config of a scheduler, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

import backdrift.solvers
from backdrift.solvers import Adams, NonStationary, TableSolver

AnySolver = TableSolver | NonStationary


def described(solver: AnySolver) -> dict[str, Any]:
    """A solver as plain data, for a config: the name of its class, and its arguments.

    Raises:
        ValueError: if an argument is a function, which no config can hold.
    """
    found: dict[str, Any] = {"class": type(solver).__name__}
    for field in dataclasses.fields(solver):
        value = getattr(solver, field.name)
        if callable(value):
            raise ValueError(f"{field.name}: expected a name or numbers, which a config can hold, got a function")
        found[field.name] = value.tolist() if isinstance(value, Tensor) else value
    return found


def solver_from(solver: AnySolver | Mapping[str, Any] | None) -> AnySolver:
    """A solver from itself, from what `described` made of it, or `Adams()` from None.

    Raises:
        ValueError: if the solver is stochastic, or the data name no class of solvers on a fixed grid.
        TypeError: if it is a solver of another kind.
    """
    if isinstance(solver, Mapping):
        arguments = dict(solver)
        name = arguments.pop("class", None)
        kind = getattr(backdrift.solvers, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, (TableSolver, NonStationary))):
            raise ValueError(f"solver: expected the class of a solver on a fixed grid, such as Adams, got {name!r}")
        solver = kind(**arguments)
    solver = Adams() if solver is None else solver
    if not isinstance(solver, (TableSolver, NonStationary)):
        raise TypeError(f"solver: expected a solver on a fixed grid, such as Adams(), got {type(solver).__name__}")
    if solver.stochastic:
        raise ValueError(f"solver: expected a deterministic one, got {type(solver).__name__}, which draws noise")
    return solver
