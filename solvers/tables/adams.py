"""The exponential Adams family: multistep solvers, one evaluation a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice
from backdrift.solvers.tables.grid import Grid, Points, reach
from backdrift.solvers.tables.multistep import Clock, clock_of, integrate, listed, ramp, require_history
from backdrift.solvers.tables.prediction import Coordinates, Predict, coordinates, require_predict
from backdrift.solvers.tables.runge_kutta import EXPLICIT, runge_kutta_rows
from backdrift.solvers.tables.table import Number, Row, by_step, correction
from backdrift.solvers.tables.table_solver import Final, TableSolver

Start = Literal["corrector", "ramp", "runge_kutta"]


HISTORY: tuple[tuple[float, float, int], ...] = ((14, 2.5, 2), (22, 3.5, 4), (60, 4.5, 5), (math.inf, 5, 5))
"""By default the history grows with the number of steps. Each entry is (steps, predictor, corrector): below so many
steps, and not below those of the entry before, the predictor and the corrector use so many values."""

FINE_OVER_REACH = 3.0
"""c / (d `reach(steps)`), with c the width of the data's finer structure in the coordinates "rectified"."""


def by_budget(steps: int) -> tuple[float, int]:
    """How many values the predictor and the corrector use by default, see `HISTORY`."""
    return next((predictor, corrector) for below, predictor, corrector in HISTORY if steps < below)


@dataclass(frozen=True, kw_only=True)
class Adams(TableSolver):
    """Exponential Adams-Bashforth in any prediction: with y = x/N and zeta of `solvers.prediction`,

        y_s = y_t + integral of value(zeta) dzeta from t to s,

    where value is replaced by the polynomial through its last `order` values in a clock, and the
    integral is taken exactly (Gauss-Legendre in lambda, 32 nodes). Hochbruck & Ostermann (2010), exponential
    multistep methods; order 1 is DDIM in denoised and noise prediction, denoised in log-SNR is DPM-Solver++ (2M, 3M),
    noise in time is DEIS-tAB (Zhang & Chen 2023), in sigma DEIS-rhoAB.

    With a corrector (Adams-Moulton), each step is taken again through the value at its predicted end, which the next
    step asks for anyway: evaluate at the predicted x_s, correct it, go on from there, one evaluation a step (UniPC's
    order of business, Zhao et al. 2023, in any prediction and clock).

    Global order: `order`, or the lesser of order + 1 and `corrector`, if the start keeps it. Starting with one
    first-order step ("ramp") leaves, in the limit, order 2. "corrector" mends the first step as a corrector does,
    which keeps order 3 at no cost; "runge_kutta" takes the first order - 1 steps by a Runge-Kutta method of the
    same order, for (order - 1)^2 evaluations more.

    The defaults are the best single choice in our trials (`benchmarks/`): the straight line's coordinates, and the more
    steps there are, the more values, the nearer an end and the finer a structure c that they follow.

    Args:
        order: number of values the predictor uses, 1 to 5; None for what suits the number of steps, see `HISTORY`.
            Halves are means: 2.5 is the mean of the steps with 2 and with 3 values.
        corrector: number of values the corrector uses, 2 to 5, or 0 for no corrector; None for 0 if `order` is given,
            else what suits the number of steps. The value at the new point is one of them.
        predict: quantity that is extrapolated, "denoised", "noise", "velocity" or "rectified".
        clock: variable of the polynomial; None for "angle" with noise and velocity, else "wide_angle". The others are
            "log_snr", "sigma" and "time".
        start: how the first steps are taken, "corrector", "ramp" or "runge_kutta".

    Raises:
        ValueError: naming the argument that makes no sense, an order above 2 with a single step among them.
    """

    order: float | None = None
    corrector: int | None = None
    predict: Predict = "rectified"
    clock: Clock | None = None
    start: Start = "corrector"
    grid: Grid = "angle"
    final: Final = "half_step"
    eps: float | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("order", self.order, (None, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5))
        require_history(self.order, self.steps)
        require_choice("corrector", self.corrector, (None, 0, 2, 3, 4, 5))
        require_predict(self.predict)
        require_choice("clock", self.clock, (None, *get_args(Clock)))
        require_choice("start", self.start, get_args(Start))
        if self.start == "runge_kutta" and self.values[0] not in (1, *EXPLICIT):
            raise ValueError(f"start: no Runge-Kutta method of order {self.values[0]:g} here; take order 1, 2, 3 or 4")

    @property
    def values(self) -> tuple[float, int]:
        """How many values the predictor and the corrector use, 0 for no corrector."""
        order, corrector = by_budget(self.steps)
        if self.order is not None:
            order, corrector = self.order, 0
        return order, corrector if self.corrector is None else self.corrector

    @property
    def fine(self) -> float:
        """c/d of the coordinates "rectified", for so many steps."""
        return FINE_OVER_REACH * reach(self.steps)

    @property
    def claimed_order(self) -> int:
        order, corrector = int(self.values[0]), self.values[1]
        start = {"ramp": 2, "corrector": 3, "runge_kutta": 4}[self.start]
        return min(min(order + 1, corrector) if corrector else order, start)

    def coordinates(self, points: Points) -> Coordinates:
        """Those of the prediction, at given points."""
        return coordinates(points, self.predict, self.data_std or 1.0, self.fine)

    def weights(self, points: Points, steps: slice, lags: list[int]) -> Tensor:
        """N_s times the integral of each Lagrange basis polynomial, times its value's factor, `[steps, len(lags)]`.

        Args:
            points: the grid.
            steps: which steps.
            lags: which points the polynomial goes through: the start of the step minus each lag.
        """
        clock = self.clock or ("angle" if self.predict in ("noise", "velocity") else "wide_angle")
        here = self.coordinates(points)
        index = torch.arange(len(points) - 1)[steps]
        integrals = integrate(
            points,
            steps,
            lags,
            lambda inside: self.coordinates(inside).density,
            lambda at: clock_of(at, clock, self.data_std or 1.0),
        )
        return here.scale[index + 1, None] * integrals * here.factor[index[:, None] - torch.tensor(lags)]

    def corrections(self, points: Points) -> list[tuple[Number, ...]]:
        """The corrector's weights of every step that is corrected, of the value at its end first."""
        _, corrector = self.values
        if corrector:
            return ramp(points, corrector, -1, self.weights)
        # The first step alone, by the trapezoid through both its ends.
        mends = self.start == "corrector" and self.values[0] > 2 and len(points) > 2
        return listed(self.weights(points, slice(0, 1), [-1, 0])) if mends else []

    def rows(self, points: Points) -> Iterator[Row]:
        here, n, values = self.coordinates(points), len(points) - 1, self.values[0]
        predictions, corrections = ramp(points, values, 0, self.weights), self.corrections(points)
        stages = int(values)  # of each step of the start, of the same order
        begun = min(stages - 1, n) if self.start == "runge_kutta" else 0
        if begun:
            d = self.data_std or 1.0
            yield from runge_kutta_rows(points[: begun + 1], self.predict, d, EXPLICIT[stages], self.fine)

        def by_evaluation(k: int, weights: Sequence[Number]) -> tuple[Number, ...]:
            return spread(weights, k, begun, stages)

        def corrected(k: int, at: Number, slope: Number) -> Row:
            row = correction(at, slope, corrections[k - 1], predictions[k - 1])
            return row._replace(weights=by_evaluation(k, row.weights))

        columns = by_step(points.t[:-1], points.t[1:], here.scale[1:] / here.scale[:-1], here.slope[:-1])
        for k, (at, to, carry, slope) in enumerate(columns):
            if k < begun:
                continue
            asked = begun < k <= len(corrections)
            if asked:
                yield corrected(k, at, slope)
            yield Row(to, carry, by_evaluation(k, predictions[k]), *((None, 0.0) if asked else (at, slope)))
        if self.final == "half_step" and begun < n <= len(corrections):
            ((at, slope),) = by_step(points.t[-1:], here.slope[-1:])
            yield corrected(n, at, slope)


def spread(weights: Sequence[Number], k: int, begun: int, stages: int) -> tuple[Number, ...]:
    """Weights of the values at points k, k - 1, ... as weights of evaluations, the newest first.

    Each of the first `begun` steps made `stages` evaluations, of which the first is at a point.
    """

    def evaluation(point: int) -> int:
        return min(point, begun) * stages + max(point - begun, 0)

    lags = [evaluation(k) - evaluation(k - lag) for lag in range(len(weights))]
    wide = [0.0] * (lags[-1] + 1)
    for lag, weight in zip(lags, weights, strict=True):
        wide[lag] = weight
    return tuple(wide)
