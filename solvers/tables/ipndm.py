"""iPNDM: a multistep solver with the weights of an even grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backdrift.sde.checks import require_choice
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
    """DDIM's step with the noise extrapolated by the Adams-Bashforth weights of an even grid,

        x_s = alpha_s/alpha_t x_t + alpha_s (s_s - s_t) sum_j b_j eps_(t-j),    s = sigma/alpha,

    b = (1), (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24 whatever the grid. Zhang & Chen (2023),
    after Liu, Ren, Lin & Zhao (2022). On a grid that is not even in s the weights match to first order in the step,
    so that the order is 2 at most.

    Args:
        order: number of values that a step uses, 1 to 4.

    Raises:
        ValueError: if `order` is none of these.
    """

    order: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("order", self.order, (1, 2, 3, 4))

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
