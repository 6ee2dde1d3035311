"""Annealed Langevin dynamics: a fixed number of steps at each noise level, from the most noise to the least."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from backdrift.sde.checks import require_integer, require_positive
from backdrift.solvers.tables.grid import Grid, Points
from backdrift.solvers.tables.table import Row
from backdrift.solvers.tables.table_solver import TableSolver


@dataclass(frozen=True, kw_only=True)
class AnnealedLangevin(TableSolver):
    r"""`repeats` unadjusted Langevin steps at each noise level sigma, of a size that falls with sigma^2,

    .. math:: x' = x + h s_t(x) + \sqrt{2 h} z, \qquad h = r \sigma^2,

    Song & Ermon (2019), algorithm 1, whose epsilon is 2 r sigma_L^2, sigma_L being the last level. By Tweedie's
    formula sigma^2 s_t = alpha D - x, so a step is a row of a table,

    .. math:: x' = (1 - r) x + r \alpha D(x, t) + \sqrt{2 r} \sigma z,

    and with a geometric ladder (the grid "log_snr") of the process `VE` this is their sampler, the
    last denoising of Song & Ermon (2020) included. Between levels of another process x is rescaled by
    the ratio of the alphas. At each level x ends near p_t, off by the bias of `ULA`, a share r/2 of the
    variance at most (in a direction without data), and by what `repeats` steps left unforgotten: it
    has no order of convergence in `steps`.

    Args:
        steps: number of noise levels; one more with final="stop", whose grid has steps + 1 times.
        repeats: steps at each level (T in the paper).
        ratio: r, the step size in units of sigma^2, below 2 for stability.

    Raises:
        ValueError: if `repeats` < 1 or `ratio` is not in (0, 2).
    """

    grid: Grid = "log_snr"
    repeats: int = 20
    ratio: float = 0.1
    order: ClassVar[int] = 0
    stochastic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(ratio=self.ratio)
        if not self.ratio < 2:
            raise ValueError(f"ratio: expected a number below 2, where a step diverges, got {self.ratio!r}")
        require_integer("repeats", self.repeats, 1)

    def rows(self, points: Points) -> Iterable[Row]:
        return list(self._rows(points))

    def _rows(self, points: Points) -> Iterator[Row]:
        r, times, alpha, sigma = self.ratio, points.t, points.alpha, points.sigma
        for level in range(len(points)):
            if level and alpha[level] != alpha[level - 1]:
                yield Row(times[level], alpha[level] / alpha[level - 1], (), kind="stage")
            for repeat in range(1, self.repeats + 1):
                # The trajectory shows what a level ends with. That of T begins with the starting points.
                shown = level and repeat == self.repeats
                yield Row(
                    times[level],
                    1 - r,
                    (r * alpha[level],),
                    times[level],
                    noise=(2 * r) ** 0.5 * sigma[level],
                    kind="step" if shown else "stage",
                )
