"""Euler's method, on the probability flow and on the reverse SDE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backdrift.sde import affine
from backdrift.sde.value_types import NonNegative
from backdrift.solvers.tables.grid import Points, fresh_share
from backdrift.solvers.tables.table import Row, one_evaluation_rows
from backdrift.solvers.tables.table_solver import TableSolver


@dataclass(frozen=True, kw_only=True)
class Euler(TableSolver):
    """Euler's method on the probability flow: the simplest solver, for comparison with others.

        x_s = x_t + (s - t) v(x_t, t),    v = f x - g^2/2 score.

    Song et al. (2021), eq. 13. A step costs one evaluation, and the order is 1.

    Its arguments are those of every solver on a fixed grid, see `TableSolver`.
    """

    claimed_order = 1

    def rows(self, points: Points) -> Iterable[Row]:
        t, s = points.steps()
        a, b = affine(points.sde, t.t, "velocity")
        step = s.t - t.t
        return one_evaluation_rows(t.t, s.t, 1 + step * a, step * b)


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama(TableSolver):
    """The Euler-Maruyama method on the reverse SDE: the simplest stochastic solver, for comparison with others.

    The reverse SDE has a stochasticity lambda, which scales its noise:

        x_s = x_t + (s - t) [f x_t - (1 + lambda^2)/2 g^2 score] + lambda g sqrt(t - s) z.

    Maruyama (1955); Song et al. (2021), eq. 6. A step costs one evaluation. The weak order is 1. The strong order is 1
    too, since the noise does not depend on the state.

    Args:
        stochasticity: lambda >= 0. 0 is `Euler`, and 1 is Anderson's reverse SDE.

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `stochasticity` is negative.
    """

    stochasticity: NonNegative = 1.0
    claimed_order = 1

    @property
    def stochastic(self) -> bool:
        return self.stochasticity > 0

    def rows(self, points: Points) -> Iterable[Row]:
        t, s = points.steps()
        a, b = affine(points.sde, t.t, "score")
        step = s.t - t.t
        push = -0.5 * (1 + self.stochasticity**2) * t.g.square()
        noise = self.stochasticity * t.g * (-step).sqrt()
        return one_evaluation_rows(t.t, s.t, 1 + step * (t.f + push * a), step * push * b, noise)


@dataclass(frozen=True, kw_only=True)
class ReverseDiffusion(TableSolver):
    """The reverse diffusion sampler of Song et al. (2021), eq. 46, the predictor of their experiments.

    It reverses the forward transition x_t = a x_s + sqrt(v) z, with a = alpha_t/alpha_s and v = Var[x_t | x_s], as a
    discrete step with the drift f = (a - 1) x and the diffusion G = sqrt(v):

        x_s = (2 - alpha_t/alpha_s) x_t + v score + sqrt(v) z.

    A step costs one evaluation, and the weak order is 1.

    Its arguments are those of every solver on a fixed grid, see `TableSolver`.
    """

    claimed_order = 1
    stochastic = True

    def rows(self, points: Points) -> Iterable[Row]:
        t, s = points.steps()
        a, b = affine(points.sde, t.t, "score")
        variance = t.sigma.square() * fresh_share(t, s)
        return one_evaluation_rows(t.t, s.t, 2 - t.alpha / s.alpha + variance * a, variance * b, variance.sqrt())
