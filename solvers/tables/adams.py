"""The exponential Adams family: multistep solvers with one evaluation a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from backdrift.sde.value_types import NonNegative, OneOf
from backdrift.solvers.tables.grid import Grid, Points, reach
from backdrift.solvers.tables.multistep import Clock, clock_of, integrate, listed, ramp, require_history
from backdrift.solvers.tables.prediction import Coordinates, Predict, coordinates
from backdrift.solvers.tables.runge_kutta import EXPLICIT, runge_kutta_rows
from backdrift.solvers.tables.table import Number, Row, by_step, correction
from backdrift.solvers.tables.table_solver import Final, TableSolver

Start = Literal["corrector", "ramp", "runge_kutta"]


HISTORY: tuple[tuple[float, float, int], ...] = ((14, 2.5, 2), (22, 3.5, 4), (60, 4.5, 5), (math.inf, 5, 5))
"""By default the history grows with the number of steps. Each entry is (steps, predictor, corrector): below so many
steps, and not below those of the entry before, the predictor and the corrector use so many values.

Fitted by `benchmarks/defaults.py history`. The other numbers of values that were tried give errors more than 5% larger.
The exception is 4.5 and 5 from 14 steps on: the error is 2% smaller on average, but 1.7 times as large on the digits.
Thresholds from 10 to 14, from 20 to 24 and from 40 to 60 change the error by less than 5%.
"""

FINE_OVER_REACH = 3.0
"""c / (d `reach(steps)`), with c the width of the data's finer structure in the coordinates "rectified".

Fitted by `benchmarks/defaults.py structure`. The error changes by less than 5% from 1.5 to 6.
"""


def by_budget(steps: int) -> tuple[float, int]:
    """How many values the predictor and the corrector use by default, see `HISTORY`."""
    return next((predictor, corrector) for below, predictor, corrector in HISTORY if steps < below)


@dataclass(frozen=True, kw_only=True)
class Adams(TableSolver):
    """Exponential multistep methods of Adams type for the probability flow. This is the default solver.

    In the coordinates y = x/N and zeta of `solvers/tables/prediction.py`, the probability flow has no linear part:

        y_s = y_t + integral of value(zeta) dzeta from t to s.

    The solver replaces value by the polynomial through its last `order` values, as a function of the variable that
    `clock` names. It computes the integral of this polynomial by Gauss-Legendre quadrature in lambda with 32 nodes,
    which is exact to rounding (Adams-Bashforth; Hochbruck & Ostermann 2010, exponential multistep methods). Some
    choices are known under other names:

    - predict="denoised" or "noise" with order=1 is DDIM;
    - predict="denoised" with clock="log_snr" is DPM-Solver++ (2M and 3M, Lu et al. 2022b);
    - predict="noise" with clock="time" is DEIS-tAB (Zhang & Chen 2023), and with clock="sigma" DEIS-rhoAB.

    With a corrector (Adams-Moulton) the solver evaluates the model at the predicted x_s, takes the step again with the
    new value as one more node, and continues from the corrected state. The next step uses the same evaluation, so a
    step still costs one. UniPC (Zhao et al. 2023) works in this way too; here it works with every prediction and clock.

    Without a corrector the global order is `order`. With one it is the lesser of order + 1 and `corrector`. The first
    steps can lower it, since they have few earlier values:

    - start="ramp" begins with one first-order step, which limits the order to 2;
    - start="corrector" corrects the first step as well, which limits the order to 3 and costs nothing;
    - start="runge_kutta" takes the first order - 1 steps by a Runge-Kutta method of the same order, at most 4, which
      costs (order - 1)^2 more evaluations.

    The defaults are the best single choice in our trials (`benchmarks/`). With more steps they use more values, they
    end the grid closer to the data, and they assume a smaller width c of the data's finer structure.

    Args:
        order: number of values the predictor uses, 1 to 5; None for what suits the number of steps. By default the
            history grows with the number of steps: 2.5 values below 14 steps, 3.5 below 22, 4.5 below 60, then 5. A
            half is a mean: 2.5 is the mean of the steps with 2 and with 3 values.
        corrector: number of values the corrector uses, 2 to 5 or 0; None for 0 with an order given, else what suits.
            What suits the steps is 2 values below 14 steps, 4 below 22, then 5. The value at the new point is one of
            them. 0 is for no corrector.
        predict: quantity that is extrapolated, "denoised", "noise", "velocity" or "rectified".
        clock: variable of the polynomial; None for "angle" with noise and velocity, else "wide_angle". The others are
            "log_snr", "sigma" and "time".
        start: how the first steps are taken, "corrector", "ramp" or "runge_kutta".

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if an argument is not one of its choices, if `order` is above 2 with a single step, or if there is
            no Runge-Kutta method of this order to start with. The message names the argument.
    """

    order: Annotated[float, OneOf((1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5))] | None = None
    corrector: Annotated[int, OneOf((0, 2, 3, 4, 5))] | None = None
    predict: Predict = "rectified"
    clock: Clock | None = None
    start: Start = "corrector"
    grid: Grid = "angle"
    final: Final = "half_step"
    eps: NonNegative | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_history(self.order, self.steps)
        if self.start == "runge_kutta" and self.values[0] not in (1, *EXPLICIT):
            raise ValueError(f"start: expected order 1, 2, 3 or 4 with 'runge_kutta', got {self.values[0]:g}")

    @property
    def values(self) -> tuple[float, int]:
        """The number of values that the predictor uses, and the number that the corrector uses (0 for no corrector)."""
        order, corrector = by_budget(self.steps)
        if self.order is not None:
            order, corrector = self.order, 0
        return order, corrector if self.corrector is None else self.corrector

    @property
    def fine(self) -> float:
        """c/d of the coordinates "rectified", for this number of steps."""
        return FINE_OVER_REACH * reach(self.steps)

    @property
    def claimed_order(self) -> int:
        order, corrector = int(self.values[0]), self.values[1]
        start = {"ramp": 2, "corrector": 3, "runge_kutta": 4}[self.start]
        return min(min(order + 1, corrector) if corrector else order, start)

    def coordinates(self, points: Points) -> Coordinates:
        """The coordinates of `predict` at given points."""
        return coordinates(points, self.predict, self.data_std or 1.0, self.fine)

    def weights(self, points: Points, steps: slice, lags: list[int]) -> Tensor:
        """The weights of the values P in some steps of the grid, `[steps, len(lags)]`.

        Each weight is N_s times the integral of a Lagrange basis polynomial, times the factor by which value differs
        from P (see `Coordinates`).

        Args:
            points: the grid.
            steps: the steps to compute weights for.
            lags: the nodes of the polynomial of step k are the points k - lag, for each lag.
        """
        clock = self.clock or ("angle" if self.predict in ("noise", "velocity") else "wide_angle")
        here = self.coordinates(points)
        index = torch.arange(len(points) - 1, device="cpu")[steps]
        integrals = integrate(
            points,
            steps,
            lags,
            lambda inside: self.coordinates(inside).density,
            lambda at: clock_of(at, clock, self.data_std or 1.0),
        )
        return here.scale[index + 1, None] * integrals * here.factor[index[:, None] - torch.tensor(lags, device="cpu")]

    def corrections(self, points: Points) -> list[tuple[Number, ...]]:
        """The corrector's weights of every step that is corrected, with that of the value at the step's end first."""
        _, corrector = self.values
        if corrector:
            return ramp(points, corrector, -1, self.weights)
        # Without a corrector only the first step is corrected, by the trapezoidal rule.
        mends = self.start == "corrector" and self.values[0] > 2 and len(points) > 2
        return listed(self.weights(points, slice(0, 1), [-1, 0])) if mends else []

    def rows(self, points: Points) -> Iterator[Row]:
        here, n, values = self.coordinates(points), len(points) - 1, self.values[0]
        predictions, corrections = ramp(points, values, 0, self.weights), self.corrections(points)
        stages = int(values)  # a Runge-Kutta step of this order has as many stages
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
    """Turn weights of the values at the points k, k - 1, ... into weights of all evaluations so far, the newest first.

    Each of the first `begun` steps made `stages` evaluations, and only the first of these is at a point of the grid.
    The others get the weight 0.
    """

    def evaluation(point: int) -> int:
        return min(point, begun) * stages + max(point - begun, 0)

    lags = [evaluation(k) - evaluation(k - lag) for lag in range(len(weights))]
    wide = [0.0] * (lags[-1] + 1)
    for lag, weight in zip(lags, weights, strict=True):
        wide[lag] = weight
    return tuple(wide)
