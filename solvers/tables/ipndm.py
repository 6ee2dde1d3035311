"""iPNDM: a multistep solver that uses the weights of an even grid on every grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from backdrift.sde.value_types import OneOf
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.table import Row, by_step
from backdrift.solvers.tables.table_solver import TableSolver

BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclass(frozen=True, kw_only=True)
class IPNDM(TableSolver):
    """iPNDM: a step of DDIM whose noise is extrapolated from the last steps, as if the grid were even.

    The weights b_j are those of the Adams-Bashforth methods on an even grid:

        x_s = alpha_s/alpha_t x_t + alpha_s (s_s - s_t) sum_j b_j eps_(t-j),    s = sigma/alpha,

    with b = (1), (3, -1)/2, (23, -16, 5)/12 or (55, -59, 37, -9)/24. Zhang & Chen (2023), after Liu, Ren, Lin & Zhao
    (2022). A step costs one evaluation. If the grid is not even in s, the weights are right only to first order in the
    step, so the order is at most 2. `Adams` has the weights of the actual grid.

    Args:
        order: number of values that a step uses, 1 to 4.

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `order` is not one of 1, 2, 3 and 4.
    """

    order: Annotated[int, OneOf((1, 2, 3, 4))] = 4

    @property
    def claimed_order(self) -> int:
        return min(self.order, 2)

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        noise = -t.alpha / t.sigma  # of P = D - x/alpha
        step = s.alpha * (s.ratio - t.ratio)
        columns = list(by_step(t.t, s.t, s.alpha / t.alpha, -1 / t.alpha, step, noise))
        for k, (at, to, carry, slope, h, _) in enumerate(columns):
            bashforth = BASHFORTH[min(self.order, k + 1)]
            weights = tuple(h * b * columns[k - j][5] for j, b in enumerate(bashforth))
            yield Row(to, carry, weights, at, slope)
