"""Annealed Langevin dynamics: a fixed number of Langevin steps at each noise level, from high noise to low."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from backdrift.sde.value_types import Range
from backdrift.solvers.tables.grid import Grid, Points
from backdrift.solvers.tables.table import Row
from backdrift.solvers.tables.table_solver import TableSolver


@dataclass(frozen=True, kw_only=True)
class AnnealedLangevin(TableSolver):
    r"""Annealed Langevin dynamics: `repeats` unadjusted Langevin steps at each noise level sigma.

    It is the sampler of the first score-based models, and it needs many more evaluations than the other solvers. The
    step size falls with sigma^2:

    .. math:: x' = x + h s_t(x) + \sqrt{2 h} z, \qquad h = r \sigma^2.

    Song & Ermon (2019), algorithm 1; their epsilon is 2 r sigma_L^2, where sigma_L is the last level. By Tweedie's
    formula sigma^2 s_t = alpha D - x, so a step is a row of a table:

    .. math:: x' = (1 - r) x + r \alpha D(x, t) + \sqrt{2 r} \sigma z.

    With the process `VE` and geometric noise levels (the grid "log_snr") this is their sampler, with the last
    denoising step of Song & Ermon (2020). For other processes, x is multiplied by the ratio of the alphas between two
    levels.

    At each level the samples end near p_t, with two errors. The first is the bias of unadjusted Langevin steps (see
    `ULA`): it is at most a share r/2 of the variance, and largest in directions in which the data do not vary. The
    second is what `repeats` steps still remember of the level before. Therefore the sampler has no order of
    convergence in `steps`.

    Args:
        steps: the number of noise levels. With final="stop" there is one more, since the grid has steps + 1 times.
        repeats: the number of Langevin steps at each level (T in the paper).
        ratio: the step size r in units of sigma^2, between 0 and 2. Larger steps are not stable.

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `repeats` is below 1, or `ratio` is not in (0, 2).
    """

    grid: Grid = "log_snr"
    repeats: Annotated[int, Range(least=1, most=10_000)] = 20
    ratio: Annotated[float, Range(above=0, below=2)] = 0.1
    stochastic = True
    claimed_order = 0

    def rows(self, points: Points) -> Iterable[Row]:
        return list(self._rows(points))

    def _rows(self, points: Points) -> Iterator[Row]:
        r, times, alpha, sigma = self.ratio, points.t, points.alpha, points.sigma
        for level in range(len(points)):
            if level and alpha[level] != alpha[level - 1]:
                yield Row(times[level], alpha[level] / alpha[level - 1], (), kind="stage")
            for repeat in range(1, self.repeats + 1):
                # The trajectory shows the last state of each level. At T it already holds the starting points.
                shown = level and repeat == self.repeats
                yield Row(
                    times[level],
                    1 - r,
                    (r * alpha[level],),
                    times[level],
                    noise=(2 * r) ** 0.5 * sigma[level],
                    kind="step" if shown else "stage",
                )
