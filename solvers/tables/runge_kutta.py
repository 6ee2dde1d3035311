"""Explicit Runge-Kutta methods in the coordinates of `solvers/tables/prediction.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from backdrift.sde.value_types import OneOf
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.prediction import FINE, Predict, coordinates, lambda_at
from backdrift.solvers.tables.table import Row, by_step
from backdrift.solvers.tables.table_solver import TableSolver
from backdrift.solvers.tables.tableau import HEUN, KUTTA, RALSTON, Tableau

EXPLICIT = {tableau.order: tableau for tableau in (HEUN, RALSTON, KUTTA)}


def runge_kutta_rows(
    points: Points, predict: Predict, data_std: float, tableau: Tableau, fine: float = FINE
) -> Iterator[Row]:
    """The rows of an explicit Runge-Kutta method for dy/dzeta = value, with one evaluation in each stage:

        y_i = y + h sum_j a_ij k_j,    y' = y + h sum_j b_j k_j,    k_j = value(y_j, zeta + c_j h).

    Args:
        points: the grid.
        predict: the kind of prediction, which sets the coordinates.
        data_std: the data's standard deviation d.
        tableau: the coefficients a, b and c.
        fine: c/d of the coordinates "rectified".
    """
    c, a, b = tableau.c, tableau.a, tableau.b
    here = coordinates(points, predict, data_std, fine)
    start, h = here.zeta[:-1], here.zeta.diff()
    # The points of the stages, and the points at the ends of the steps.
    stages = [points[:-1]]
    stages += [
        points[1:] if share == 1 else points.at_lambda(lambda_at(start + share * h, predict, data_std, fine))
        for share in (*c[1:], 1)
    ]
    at = [coordinates(stage, predict, data_std, fine) for stage in stages]
    columns = []
    for i, weights in enumerate((*a[1:], b), start=1):
        columns += [stages[i - 1].t, at[i - 1].slope, stages[i].t, at[i].scale / at[0].scale]
        columns += [at[i].scale * h * w * at[j].factor for j, w in reversed(list(enumerate(weights)))]
    for step in by_step(*columns):
        entries = iter(step)
        for i in range(1, len(stages)):
            t, slope, to, carry = (next(entries) for _ in range(4))
            weights = tuple(next(entries) for _ in range(i))
            yield Row(to, carry, weights, t, slope, base=i - 1, kind="step" if i == len(b) else "stage")


@dataclass(frozen=True, kw_only=True)
class RungeKutta(TableSolver):
    """A classical Runge-Kutta method for the probability flow, in coordinates without a linear part.

    Take it for a reference solution with many steps. The method solves dy/dzeta = value in the coordinates of
    `solvers/tables/prediction.py`. A step costs as many evaluations as the order.

    Args:
        order: 2 (Heun), 3 (Ralston) or 4 (Kutta); a step takes as many evaluations.
        predict: the coordinates, "denoised", "noise", "velocity" or "rectified".

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `order` or `predict` is not one of these.
    """

    order: Annotated[int, OneOf((2, 3, 4))] = 4
    predict: Predict = "velocity"

    @property
    def claimed_order(self) -> int:
        return self.order

    def rows(self, points: Points) -> Iterator[Row]:
        return runge_kutta_rows(points, self.predict, self.data_std or 1.0, EXPLICIT[self.order])
