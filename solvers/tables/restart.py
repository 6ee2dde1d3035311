"""Restart sampling: down by the ODE, up again by noise, and down once more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from backdrift.sde.checks import require_positive
from backdrift.solvers.model import Model
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.heun import Heun
from backdrift.solvers.tables.table import Row
from backdrift.solvers.tables.table_solver import TableSolver


def hidden(row: Row) -> Row:
    """The same row as a stage, which is not on the trajectory."""
    return row._replace(kind="stage")


@dataclass(frozen=True, kw_only=True)
class Restart(TableSolver):
    """A deterministic solver that, on reaching s = sigma/alpha = `s_min`, goes back up to `s_max` by adding noise,

        x^ <- x^ + sqrt(s_max^2 - s_min^2) z,

    and comes down again, `repeats` times: the noise contracts the errors made so far, the ODE makes few new ones.
    Xu et al. (2023). Both ends are taken from the grid, the lowest of its times with s >= s_min and
    the highest with s <= s_max (at least one step apart), and each way down goes through the same times again. The
    trajectory, and `on_step`, see the last of these ways.

    Args:
        base: what takes the steps; its own grid and number of steps are not used.
        s_min, s_max: the range of s = sigma/alpha that is gone through again, in units of the data.
        repeats: K, how often it goes back up.

    Raises:
        ValueError: if `base` is stochastic, a number is not positive, or s_max <= s_min.
    """

    base: TableSolver = field(default_factory=Heun)
    s_min: float = 0.1
    s_max: float = 0.3
    repeats: int = 2
    stochastic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(s_min=self.s_min, s_max=self.s_max, repeats=self.repeats)
        if self.s_max <= self.s_min:
            raise ValueError(f"s_max: expected more than s_min = {self.s_min}, got {self.s_max}")
        if self.base.stochastic:
            raise ValueError(f"base: expected a deterministic solver, got {type(self.base).__name__}")

    @property
    def claimed_order(self) -> int:
        return self.base.claimed_order

    def for_model(self, model: Model) -> Restart:
        return dataclasses.replace(self, base=self.base.for_model(model))

    def rows(self, points: Points) -> Iterator[Row]:
        ratio = points.ratio.detach()
        low = max(int((ratio >= self.s_min).sum()) - 1, 1)
        high = min(int((ratio > self.s_max).sum()), low - 1)
        top, bottom = points[high], points[low]
        lift = top.alpha * (top.ratio.square() - bottom.ratio.square()).sqrt()
        # The trajectory passes the interval once, on the last way down.
        yield from (row if row.to >= top.t else hidden(row) for row in self.base.rows(points[: low + 1]))
        for repeat in range(1, self.repeats + 1):
            yield Row(top.t, top.alpha / bottom.alpha, (), noise=lift, kind="stage")
            down = self.base.rows(points[high : low + 1])
            yield from down if repeat == self.repeats else map(hidden, down)
        if low + 1 < len(points):
            yield from self.base.rows(points[low:])
