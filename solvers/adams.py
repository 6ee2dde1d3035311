"""The exponential Adams family: multistep solvers, one evaluation a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from solvers.grid import Grid, Points, reach
from solvers.prediction import Predict, coordinates, require_predict
from solvers.runge_kutta import EXPLICIT, runge_kutta_rows
from solvers.solver import Final, TableSolver
from solvers.table import Row, by_step, correction

Clock = Literal["angle", "log_snr", "sigma", "time"]
Start = Literal["corrector", "ramp", "runge_kutta"]

BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}

_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(32))


def by_budget(steps: int) -> tuple[float, int]:
    """How many values predictor and corrector use where nothing is said: the more, the more steps there are."""
    return (2.5, 2) if steps < 14 else (3.5, 4) if steps < 22 else (4.5, 5) if steps < 60 else (5, 5)


WIDE = 3.5
"""Of the clock "angle", atan(s/(3.5 d)); with by_budget and `Adams.fine` the best single choice in our trials."""


def clock_of(points: Points, clock: Clock, data_std: float) -> Tensor:
    """The variable in which values are extrapolated by polynomials."""
    if clock == "log_snr":
        return points.lam
    if clock == "sigma":
        return points.ratio
    if clock == "time":
        return points.t
    return torch.atan(points.ratio / (WIDE * data_std))


def lagrange(at: Tensor, nodes: Tensor) -> Tensor:
    """The Lagrange basis on `nodes` `[steps, m]`, evaluated at `at` `[steps, q]`: `[steps, m, q]`."""
    basis = []
    for j in range(nodes.shape[1]):
        others = [i for i in range(nodes.shape[1]) if i != j]
        product = torch.ones_like(at)
        for i in others:
            product = product * (at - nodes[:, i : i + 1]) / (nodes[:, j : j + 1] - nodes[:, i : i + 1])
        basis.append(product)
    return torch.stack(basis, 1)


def integrate(
    points: Points,
    steps: slice,
    lags: list[int],
    density: Callable[[Points], Tensor],
    clock: Callable[[Points], Tensor],
) -> Tensor:
    """The integrals over steps of a density times each Lagrange basis polynomial, `[steps, len(lags)]`:

        integral from lambda_k to lambda_(k+1) of density l_j dlambda,

    by Gauss-Legendre quadrature in lambda.

    Args:
        points: the grid.
        steps: which steps k.
        lags: which points the polynomials go through: k minus each lag.
        density: per unit of lambda, `[steps, nodes]` at points of that shape.
        clock: the variable of the polynomials.
    """
    index = torch.arange(len(points) - 1)[steps]
    start, end = points.lam[index, None], points.lam[index + 1, None]
    inside = points.at_lambda(start + (end - start) * 0.5 * (_NODES + 1))
    measure = 0.5 * (end - start) * _WEIGHTS * density(inside)
    basis = lagrange(clock(inside), clock(points)[index[:, None] - torch.tensor(lags)])
    return (basis * measure[:, None]).sum(-1)


Weights = Callable[[Points, slice, list[int]], Tensor]
"""(points, steps, lags) -> the weights of the values at the start of each step minus each lag, `[steps, len(lags)]`."""


def ramp(points: Points, values: float, newest: int, weights: Weights) -> list[tuple[Any, ...]]:
    """Weights of every step, of as many values as there are, up to `values`, from lag `newest` on; of two and a half
    values the mean of the weights of two and of three.
    """
    low, share = int(values), values % 1
    found: list[tuple[Any, ...]] = []
    n = len(points) - 1
    for used in range(1, low + 1):
        # What step k can use: its own start and all before, and with newest = -1 its end as well.
        last = n if used == low else min(used + newest, n)
        if len(found) < last:
            found += listed(weights(points, slice(len(found), last), list(range(newest, newest + used))))
    if not share:
        return found
    more = ramp(points, low + 1, newest, weights)
    return [
        tuple((1 - share) * a + share * b for a, b in zip_longest(fewer, row, fillvalue=0.0))
        for fewer, row in zip(found, more, strict=True)
    ]


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
        order: 1 to 5, the number of values the predictor uses; halves are means, 2.5 of the steps with 2 and with 3.
            None for as many as suit the steps, with a corrector.
        corrector: 2 to 5, the number of values the corrector uses, the new one among them; 0 for no corrector; None
            for as many as suit the steps where order is None, else 0.
        predict: "denoised", "noise", "velocity" or "rectified".
        clock: "angle", "log_snr", "sigma" or "time".
        start: "corrector", "ramp" or "runge_kutta".

    Raises:
        ValueError: naming the argument that makes no sense, an order above 2 with a single step among them.
    """

    order: float | None = None
    corrector: int | None = None
    predict: Predict = "rectified"
    clock: Clock = "angle"
    start: Start = "corrector"
    grid: Grid = "angle"
    final: Final = "half_step"
    eps: float | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order is not None and self.order not in (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5):
            raise ValueError(f"order: expected 1 to 5, halves included, or None, got {self.order!r}")
        require_history(self.order, self.steps)
        if self.corrector not in (None, 0, 2, 3, 4, 5):
            raise ValueError(f"corrector: expected 0, 2 to 5 or None, got {self.corrector!r}")
        require_predict(self.predict)
        if self.clock not in get_args(Clock):
            raise ValueError(f"clock: expected one of {', '.join(get_args(Clock))}, got {self.clock!r}")
        if self.start not in get_args(Start):
            raise ValueError(f"start: expected one of {', '.join(get_args(Start))}, got {self.start!r}")
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
        return 3 * reach(self.steps)

    @property
    def claimed_order(self) -> int:  # type: ignore[override]
        order, corrector = int(self.values[0]), self.values[1]
        start = {"ramp": 2, "corrector": 3, "runge_kutta": 4}[self.start]
        return min(min(order + 1, corrector) if corrector else order, start)

    def weights(self, points: Points, steps: slice, lags: list[int]) -> Tensor:
        """N_s times the integral of each Lagrange basis polynomial, times its value's factor, `[steps, len(lags)]`.

        Args:
            points: the grid.
            steps: which steps.
            lags: which points the polynomial goes through: the start of the step minus each lag.
        """
        d = self.data_std or 1.0
        here = coordinates(points, self.predict, d, self.fine)
        index = torch.arange(len(points) - 1)[steps]
        integrals = integrate(
            points,
            steps,
            lags,
            lambda inside: coordinates(inside, self.predict, d, self.fine).density,
            lambda at: clock_of(at, self.clock, d),
        )
        return here.scale[index + 1, None] * integrals * here.factor[index[:, None] - torch.tensor(lags)]

    def corrections(self, points: Points) -> list[tuple[Any, ...]]:
        """The corrector's weights of every step that is corrected, of the value at its end first."""
        _, corrector = self.values
        if corrector:
            return ramp(points, corrector, -1, self.weights)
        # The first step alone, by the trapezoid through both its ends.
        mends = self.start == "corrector" and self.values[0] > 2 and len(points) > 2
        return listed(self.weights(points, slice(0, 1), [-1, 0])) if mends else []

    def rows(self, points: Points) -> Iterator[Row]:
        d = self.data_std or 1.0
        here = coordinates(points, self.predict, d, self.fine)
        n, order = len(points) - 1, self.values[0]
        predictions, corrections = ramp(points, order, 0, self.weights), self.corrections(points)
        begun = min(int(order) - 1, n) if self.start == "runge_kutta" else 0
        if begun:
            yield from runge_kutta_rows(points[: begun + 1], self.predict, d, EXPLICIT[int(order)], self.fine)

        def by_evaluation(k: int, weights: Sequence[Any]) -> tuple[Any, ...]:
            return spread(weights, k, begun, stages=int(order))

        def corrected(k: int, at: Any, slope: Any) -> Row:
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


def require_history(order: float | None, steps: int) -> None:
    """Raise `ValueError` where an order above 2 is asked for of a single step, which has but one value to go by."""
    if order is not None and order > 2 and steps == 1:
        raise ValueError(f"order: {order:g} values cannot come from 1 step; take more steps, or order=1")


def listed(array: Tensor) -> list[tuple[Any, ...]]:
    """The rows of a matrix as tuples: of numbers, or of tensors where there are gradients."""
    if array.requires_grad:
        return [tuple(row.unbind()) for row in array]
    return [tuple(row) for row in array.tolist()]


def spread(weights: Sequence[Any], k: int, begun: int, stages: int) -> tuple[Any, ...]:
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


@dataclass(frozen=True, kw_only=True)
class DPMSolverPP2M(TableSolver):
    """DPM-Solver++(2M): with h = lambda_s - lambda_t and r the step before over this one,

        x_s = sigma_s/sigma_t x_t + alpha_s (1 - exp(-h)) [(1 + 1/(2r)) D_t - 1/(2r) D_before].

    Lu et al. (2022b), algorithm 2. Order 2, one evaluation a step, the first step DDIM's.
    """

    claimed_order: ClassVar[int] = 2

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        h = s.lam - t.lam
        gain = s.alpha * -torch.expm1(-h)
        half = torch.cat([torch.zeros_like(h[:1]), 0.5 * h[1:] / h[:-1]])  # 1/(2r)
        for at, to, carry, newest, before in by_step(t.t, s.t, s.sigma / t.sigma, gain * (1 + half), -gain * half):
            yield Row(to, carry, (newest, before), at)


@dataclass(frozen=True, kw_only=True)
class IPNDM(TableSolver):
    """DDIM's step with the noise extrapolated by the Adams-Bashforth weights of an even grid,

        x_s = alpha_s/alpha_t x_t + alpha_s (s_s - s_t) sum_j b_j eps_(t-j),    s = sigma/alpha,

    b = (1), (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24 whatever the grid. Zhang & Chen (2023),
    after Liu, Ren, Lin & Zhao (2022). On a grid that is not even in s the weights match to first order in the step,
    so that the order is 2 at most.

    Args:
        order: 1 to 4, the number of values used.

    Raises:
        ValueError: if `order` is none of these.
    """

    order: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"order: expected 1, 2, 3 or 4, got {self.order!r}")

    @property
    def claimed_order(self) -> int:  # type: ignore[override]
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
