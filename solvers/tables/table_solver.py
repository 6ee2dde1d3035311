"""The base class of solvers on a fixed grid, each of which computes a table from a process and a grid."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, ClassVar, Literal, cast

from torch import Tensor

from backdrift.sde import SDE, GaussianSDE
from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import NonNegative, Positive, Range
from backdrift.solvers.model import ModelLike, data_std_of, denoiser_of, recomputed
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, require_gaussian
from backdrift.solvers.tables.grid import Grid, Points, reach, single_time, time_grid
from backdrift.solvers.tables.lower_begin import from_T, lower_begin, predicts_noise
from backdrift.solvers.tables.table import Row, Table, by_step, execute

Final = Literal["denoise", "stop", "half_step"]

Begin = Literal["auto", "lower", "T"]

Steps = Annotated[int, Range(least=1, most=100_000)]
"""How many steps a solver may take. A table of more rows would not fit in the memory of many machines."""


@dataclass(frozen=True, kw_only=True)
class TableSolver(Solver):
    """The base class of solvers on a fixed grid. It computes a table of numbers from a process and a grid.

    A subclass defines `rows(points)`, the steps between the points of a grid. This class makes the grid, adds the last
    step to the data, and runs the table.

    Args:
        steps: number of steps, the last one to the data included.
        grid: the times by name, "uniform", "quadratic", "log_snr", "karras" or "angle", or as a list or a function.
            A list has `steps + 1` times for final="stop" and `steps` otherwise. A function is called as
            (sde, intervals, first, last) and returns intervals + 1 times.
        final: how the solver ends, "denoise", "half_step" or "stop". With "denoise" the last step is D(x, eps), which
            costs one evaluation. With "half_step" it is x/alpha + (sigma/alpha)^2/2 score = (x/alpha + D)/2 instead,
            which costs the same and is of second order in sigma. With "stop" the solver stops at eps, and the samples
            keep noise of standard deviation sigma(eps).
        eps: the time at which the grid ends, or "auto"; the process's own by default. "auto" is for a small number of
            steps N. The grid then ends where sigma/alpha = d min(N^(-4/3), 16/N^2), but not closer to the data than
            the process's own eps. From there the last step has an error as small as that of the steps before, so no
            step is spent closer to the data than needed.
        data_std: standard deviation d of the data; the model's own by default, or else 1. Some grids and coordinates
            depend on it.
        begin: where the grid begins, at "T" or "lower"; by default "auto", lower for networks that predict the noise.
            The denoiser of such a network errs by sigma/alpha times the error of its output, which spoils a long first
            step from T. With "lower" the first of n evaluations is made where sigma/alpha is 4 n d at most, and its
            denoiser serves for the way from T as well; see `solvers.tables.lower_begin`. "auto" keeps a grid that is a
            list as it is, with x_T at its first time. With "lower" x_T is at T where the list begins below it.

    Attributes:
        needs_ratio: whether a step needs a finite sigma/alpha where it starts. Without, a grid that is a list may begin
            at a time at which alpha is 0.

    Raises:
        ValueError: if an argument has a value that is not allowed. The message names it.
    """

    steps: Steps = 20
    grid: Grid = "karras"
    final: Final = "denoise"
    eps: NonNegative | Literal["auto"] | None = None
    data_std: Positive | None = None
    begin: Begin = "auto"
    needs_ratio: ClassVar[bool] = True

    @property
    def claimed_order(self) -> int:
        """The global order of convergence for small steps. `solvers.certify` measures it."""
        return 1

    @property
    def differentiable(self) -> bool:
        return True

    def require_process(self, sde: SDE) -> None:
        require_gaussian(self, sde)

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def rows(self, points: Points) -> Iterable[Row]:
        """The rows of the steps from each point of the grid to the next.

        A row that ends a step has the kind "step", and an intermediate one has the kind "stage". A row before a
        "correction" is a prediction, so `table` turns it into a stage.
        """

    def times(self, sde: GaussianSDE) -> Tensor:
        """The times of the grid, from T, or where it begins below T, down to eps, in float64.

        Raises:
            ValueError: if `eps` is not in [0, T), if sigma is 0 at eps, or if the grid is not valid (see `time_grid`).
        """
        eps = self.end(sde)
        if not (0 <= eps < sde.T and float(sde.sigma(eps)) > 0):
            raise ValueError(f"eps: expected a time in [0, T = {sde.T:g}) at which sigma is positive, got {eps:g}")
        intervals = self.steps - (self.final != "stop")
        d, first = self.data_std or 1.0, None
        if intervals == 0:
            return single_time(self.grid, sde)
        if self.begin == "lower":
            first = lower_begin(sde, self.steps, d)
            first = first if first > eps else None
        return time_grid(self.grid, sde, intervals, eps, d, first)

    def end(self, sde: GaussianSDE) -> float:
        """The time at which the grid ends."""
        if self.eps is None:
            return sde.eps
        if self.eps != "auto":
            return self.eps
        ratio = (self.data_std or 1.0) * reach(self.steps)
        return max(sde.eps, min(float(sde.t_from_log_snr(-2 * math.log(ratio))), 0.5 * sde.T))

    def table(self, sde: GaussianSDE, times: Tensor | None = None) -> Table:
        """The table of the solver for a process, on its own grid or on given times.

        It is for a state at the first of these times, or with begin="lower" for one at T.

        Raises:
            ValueError: if alpha is 0 at the first time, and a step needs a finite sigma/alpha there.
        """
        points = Points(sde, self.times(sde) if times is None else times)
        if self.needs_ratio and float(points.alpha[0].detach()) == 0:
            raise ValueError(
                f"grid: expected times of at most {sde.start:.6g}, since {type(self).__name__} needs a finite "
                f"sigma/alpha, got {float(points.t[0]):g}, where alpha = 0"
            )
        rows = list(self.rows(points)) if len(points) > 1 else []
        if self.final == "stop":
            return self._finished(rows, points)
        ((at, alpha),) = by_step(points.t[-1:], points.alpha[-1:])
        # If the last row is a correction, the last step uses its evaluation.
        last = rows.pop() if rows and rows[-1].kind == "correction" else Row(at, 1.0, (0.0,), at)
        # For normal data the half step is more accurate than D up to sigma/alpha = sqrt(8) d. Beyond that, as on a grid
        # with the single point T, it would keep half of the noise.
        near = float(points.ratio[-1].detach()) <= math.sqrt(8) * (self.data_std or 1.0)
        if self.final == "half_step" and near:
            # (x + sum_j m_j P_j)/(2 alpha) + D/2, with D = P_0 - slope x
            newest, *others = (0.5 / alpha * weight for weight in last.weights)
            rows.append(Row(0.0, 0.5 / alpha - 0.5 * last.slope, (newest + 0.5, *others), at, last.slope))
        else:
            rows.append(Row(0.0, 0.0, (1.0,), at))
        return self._finished(rows, points)

    def _finished(self, rows: list[Row], points: Points) -> Table:
        """The table of the rows, for a state at T if the grid begins lower and `begin` says so."""
        below = self.begin == "lower" and float(points.t[0].detach()) < points.sde.start
        return Table(tuple(predictions_as_stages(list(from_T(rows, points)) if below else rows)))

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        self.require_process(model.sde)
        table = self.for_model(model).table(cast(GaussianSDE, model.sde))
        return execute(table, recomputed(denoiser_of(model), model, x), x, noise, on_step)

    def for_model(self, model: ModelLike) -> TableSolver:
        """This solver with `data_std` and `begin` taken from the model if they were not given."""
        return dataclasses.replace(self, data_std=data_std_of(model, self.data_std), begin=self.begin_for(model))

    def begin_for(self, model: object) -> Begin:
        """Where the grid begins for a model, or for anything that says what a network predicts."""
        if self.begin != "auto":
            return self.begin
        return "lower" if predicts_noise(model) and (isinstance(self.grid, str) or callable(self.grid)) else "T"

    def with_budget(self, nfe: int, sde: GaussianSDE) -> TableSolver:
        """This solver with the largest number of steps that takes at most `nfe` evaluations.

        Raises:
            ValueError: if one step takes more than `nfe` evaluations.
        """
        for steps in range(nfe + 1, 0, -1):
            try:
                other = dataclasses.replace(self, steps=steps)
                if other.table(sde).nfe <= nfe:
                    return other
            except ValueError:
                continue
        raise ValueError(f"nfe: expected enough evaluations for one step of {type(self).__name__}, got {nfe}")


def predictions_as_stages(rows: Sequence[Row]) -> Iterator[Row]:
    """The same rows, with each row before a correction turned into a stage, since only the corrected state is final."""
    for row, after in zip_longest(rows, rows[1:]):
        predicts = after is not None and after.kind == "correction"
        yield row._replace(kind="stage") if predicts else row
