"""Restart sampling: solve the ODE down to low noise, add noise, and solve down again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from backdrift.sde.value_types import Positive, Range
from backdrift.solvers.model import ModelLike
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.heun import Heun
from backdrift.solvers.tables.table import Row
from backdrift.solvers.tables.table_solver import TableSolver


def hidden(row: Row) -> Row:
    """The same row as a stage, so that its state is not part of the trajectory."""
    return row._replace(kind="stage")


@dataclass(frozen=True, kw_only=True)
class Restart(TableSolver):
    """Restart sampling: a deterministic solver that solves a range of noise levels several times, with new noise.

    When the base solver has reached s = sigma/alpha = `s_min`, noise is added to bring the state back to `s_max`, and
    the base solver comes down again. This is done `repeats` times:

        x^ <- x^ + sqrt(s_max^2 - s_min^2) z.

    The added noise reduces the errors made so far, and the ODE makes few new ones. Xu et al. (2023). Each repeat costs
    the evaluations of the base solver between the two levels.

    Both levels are rounded to times of the grid: the last one with s >= s_min and the first one with s <= s_max, at
    least one step apart. Every repeat passes through the same times. The trajectory and `on_step` see only the last
    repeat.

    Args:
        base: solver that takes the steps. Its own grid and number of steps are not used.
        s_min: lower end of the range of s = sigma/alpha that is solved again, in units of the data.
        s_max: upper end of the range of s = sigma/alpha that is solved again, in units of the data.
        repeats: K, how often the state goes back to `s_max`.

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `base` is stochastic, if a number is not positive, or if s_max <= s_min.
    """

    base: TableSolver = field(default_factory=Heun)
    s_min: Positive = 0.1
    s_max: Positive = 0.3
    repeats: Annotated[int, Range(least=1, most=10_000)] = 2
    stochastic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.s_max <= self.s_min:
            raise ValueError(f"s_max: expected more than s_min = {self.s_min}, got {self.s_max}")
        if self.base.stochastic:
            raise ValueError(f"base: expected a deterministic solver, got {type(self.base).__name__}")

    @property
    def claimed_order(self) -> int:
        return self.base.claimed_order

    def for_model(self, model: ModelLike) -> Restart:
        return dataclasses.replace(self, base=self.base.for_model(model), begin=self.begin_for(model))

    def rows(self, points: Points) -> Iterator[Row]:
        ratio = points.ratio.detach()
        low = max(int((ratio >= self.s_min).sum()) - 1, 1)
        high = min(int((ratio > self.s_max).sum()), low - 1)
        top, bottom = points[high], points[low]
        lift = top.alpha * (top.ratio.square() - bottom.ratio.square()).sqrt()
        # Of all the solves of the range, only the last one is part of the trajectory.
        yield from (row if row.to >= top.t else hidden(row) for row in self.base.rows(points[: low + 1]))
        for repeat in range(1, self.repeats + 1):
            yield Row(top.t, top.alpha / bottom.alpha, (), noise=lift, kind="stage")
            down = self.base.rows(points[high : low + 1])
            yield from down if repeat == self.repeats else map(hidden, down)
        if low + 1 < len(points):
            yield from self.base.rows(points[low:])
