"""The rows of a solver as a pipeline of diffusers counts them: by their evaluations of the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backdrift.interop.diffusers_scheduler import SchedulerReading
from backdrift.solvers import Row, TableSolver


def evaluations(rows: Sequence[Row]) -> Tensor:
    """The times at which these rows evaluate the network, in float32."""
    return torch.tensor([row.at for row in rows if row.at is not None], dtype=torch.float32)


def evaluations_of_a_step(rows: Sequence[Row]) -> int:
    """How many evaluations each step takes, the last one aside, or 1 where they differ."""
    counts, count = [], 0
    for row in rows:
        count += row.at is not None
        if row.ends:
            counts.append(count)
            count = 0
    return counts[0] if len(set(counts[:-1])) == 1 and counts[-1] <= counts[0] else 1


def rows_of_the_rest(solver: TableSolver, reading: SchedulerReading, timesteps: Tensor) -> Sequence[Row] | None:
    """The rows of a solver on its last times, those whose evaluations are at `timesteps`, or None if there are none.

    Args:
        solver: on the whole grid.
        reading: of the scheduler.
        timesteps: the last ones of the solver, in float32.
    """
    times, wanted = solver.times(reading.sde), timesteps.tolist()
    for k in range(1, len(times)):
        steps = len(times) - k - (solver.final == "stop")
        if steps == 0:
            break
        rows = with_so_many(solver, steps).table(reading.sde, times[k:]).numbers().rows
        if reading.timestep(evaluations(rows)).tolist() == wanted:
            return rows
    return None


def with_so_many(solver: TableSolver, steps: int) -> TableSolver:
    """The solver with so many steps, from the first of its times. A single step has an order of at most 2."""
    changes: dict[str, Any] = {"steps": steps, "begin": "T"}
    order = getattr(solver, "order", None)
    if steps == 1 and order is not None and order > 2:
        changes["order"] = 2
    return dataclasses.replace(solver, **changes)
