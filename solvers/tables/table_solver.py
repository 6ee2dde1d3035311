"""Solvers on a fixed grid: a short function from (process, grid) to a table of numbers."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from backdrift.sde import SDE, GaussianSDE
from backdrift.sde.checks import require_choice, require_integer
from backdrift.solvers.model import Model, data_std_of, denoiser_of, recomputed
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, require_gaussian
from backdrift.solvers.tables.grid import Grid, Points, reach, time_grid
from backdrift.solvers.tables.table import Row, Table, by_step, execute

Final = Literal["denoise", "stop", "half_step"]


@dataclass(frozen=True, kw_only=True)
class TableSolver(Solver):
    """A solver on a fixed grid: a short function from (process, grid) to a table.

    A subclass gives `rows(points)`, the steps between the points of a grid; this class makes the
    grid, adds the last step and runs the table.

    Args:
        steps: number of steps, the last one to the data included.
        grid: the times by name, "uniform", "quadratic", "log_snr", "karras" or "angle", or as a list or a function.
            A list has `steps + 1` times for final="stop" and `steps` otherwise. A function is called as
            (sde, intervals, first, last) and returns intervals + 1 times.
        final: how the solver ends, "denoise", "half_step" or "stop". "denoise": the last of the steps is D(x, eps), one
            evaluation.
            "half_step": instead x/alpha + (sigma/alpha)^2/2 score, which is (x/alpha + D)/2, of second
            order in sigma for the same evaluation. "stop": at eps, still with noise sigma(eps).
        eps: the time at which the grid ends, or "auto"; the process's own by default. "auto" is for few steps N: where
            sigma/alpha = d min(N^(-4/3), 16/N^2), so that none is wasted close to the data, which `final` reaches
            with an error of the order of the solver's own; but not before the process's own.
        data_std: standard deviation d of the data; the model's own by default, or else 1. Some grids and coordinates
            depend on it.

    Raises:
        ValueError: naming the argument that makes no sense.
    """

    steps: int = 20
    grid: Grid = "karras"
    final: Final = "denoise"
    eps: float | Literal["auto"] | None = None
    data_std: float | None = None

    @property
    def claimed_order(self) -> int:
        """Global order of accuracy, for small steps. `solvers.certify` measures it."""
        return 1

    @property
    def differentiable(self) -> bool:
        return True

    def require_process(self, sde: SDE) -> None:
        require_gaussian(self, sde)

    def __post_init__(self) -> None:
        require_choice("final", self.final, get_args(Final))
        require_integer("steps", self.steps, 1)
        if isinstance(self.eps, str) and self.eps != "auto":
            raise ValueError(f"eps: expected a time, 'auto' or None, got {self.eps!r}")

    @abstractmethod
    def rows(self, points: Points) -> Iterable[Row]:
        """The rows that lead from each point of the grid to the next.

        A row that ends a step has the kind "step", an intermediate one "stage". Where a "correction" follows a row,
        that row is a prediction, and `table` makes it a stage.
        """

    def times(self, sde: GaussianSDE) -> Tensor:
        """The grid's times, from T down to eps.

        Raises:
            ValueError: if `eps` is not in [0, T), or sigma is 0 there.
        """
        eps = self.end(sde)
        if not (0 <= eps < sde.T and float(sde.sigma(eps)) > 0):
            raise ValueError(f"eps: expected a time in [0, T = {sde.T:g}) at which sigma is positive, got {eps:g}")
        intervals = self.steps - (self.final != "stop")
        if intervals == 0:
            return torch.tensor([sde.T], dtype=torch.float64)
        return time_grid(self.grid, sde, intervals, eps, self.data_std or 1.0)

    def end(self, sde: GaussianSDE) -> float:
        """The time at which the grid ends."""
        if self.eps is None:
            return sde.eps
        if self.eps != "auto":
            return self.eps
        ratio = (self.data_std or 1.0) * reach(self.steps)
        return max(sde.eps, min(float(sde.t_from_log_snr(-2 * math.log(ratio))), 0.5 * sde.T))

    def table(self, sde: GaussianSDE, times: Tensor | None = None) -> Table:
        """The solver as a table for a process, on its own grid or on given times."""
        points = Points(sde, self.times(sde) if times is None else times)
        rows = list(self.rows(points)) if len(points) > 1 else []
        if self.final == "stop":
            return Table(tuple(predictions_as_stages(rows)))
        ((at, alpha),) = by_step(points.t[-1:], points.alpha[-1:])
        # Where the last row is a correction, its evaluation serves the last step too.
        last = rows.pop() if rows and rows[-1].kind == "correction" else Row(at, 1.0, (0.0,), at)
        # For normal data the half step is the nearer of the two up to sigma/alpha = sqrt(8) d; beyond (a grid of one
        # point, T) it would keep half of the noise.
        near = float(points.ratio[-1].detach()) <= math.sqrt(8) * (self.data_std or 1.0)
        if self.final == "half_step" and near:
            # (x + sum_j m_j P_j)/(2 alpha) + D/2, with D = P_0 - slope x
            newest, *others = (0.5 / alpha * weight for weight in last.weights)
            rows.append(Row(0.0, 0.5 / alpha - 0.5 * last.slope, (newest + 0.5, *others), at, last.slope))
        else:
            rows.append(Row(0.0, 0.0, (1.0,), at))
        return Table(tuple(predictions_as_stages(rows)))

    def solve(self, model: Model, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        self.require_process(model.sde)
        table = self.for_model(model).table(cast(GaussianSDE, model.sde))
        return execute(table, recomputed(denoiser_of(model)), x, noise, on_step)

    def for_model(self, model: Model) -> TableSolver:
        """This solver with `data_std` filled in from the model, if it was not given."""
        return self if self.data_std is not None else dataclasses.replace(self, data_std=data_std_of(model))

    def with_budget(self, nfe: int, sde: GaussianSDE) -> TableSolver:
        """This solver with as many steps as `nfe` evaluations pay for.

        Raises:
            ValueError: if they do not pay for one step.
        """
        for steps in range(nfe + 1, 0, -1):
            try:
                other = dataclasses.replace(self, steps=steps)
                if other.table(sde).nfe <= nfe:
                    return other
            except ValueError:
                continue
        raise ValueError(f"nfe: {nfe} evaluations do not pay for a step of {type(self).__name__}")


def predictions_as_stages(rows: Sequence[Row]) -> Iterator[Row]:
    """The same rows, where one that a correction follows is a stage: the trajectory shows the corrected state alone."""
    for row, after in zip_longest(rows, rows[1:]):
        predicts = after is not None and after.kind == "correction"
        yield row._replace(kind="stage") if predicts else row
