"""Explicit Runge-Kutta methods for a flow, on a fixed grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from backdrift.solvers.quadrature import Visit
from backdrift.solvers.tables.tableau import HEUN, KUTTA, MIDPOINT, Tableau

TABLEAUS = {"midpoint": MIDPOINT, "heun": HEUN, "rk4": KUTTA}

EvaluateVelocity = Callable[[Tensor, float, float, float], Tensor]
"""(z, u, weight, place) -> the velocity at z and u. It may also add to an integral along the path, with that weight."""


def fixed(
    z: Tensor, nodes: Sequence[float], tableau: Tableau, evaluate: EvaluateVelocity, visit: Visit | None = None
) -> Tensor:
    """z at the last node, `[batch, ...]`, from z at the first.

    Args:
        z: the states at the first node, `[batch, ...]`.
        nodes: of u, rising or falling.
        tableau: of the method.
        evaluate: gives the velocity. It is told the weight of the evaluation in the integral over u, and its place: the
            number of steps before it, with a fraction within a step.
        visit: called with each node but the last, whose velocity is not evaluated here.
    """
    for n, (u, end) in enumerate(pairwise(nodes)):
        h = end - u
        slopes: list[Tensor] = []
        for c, row, b in zip(tableau.c, tableau.a, tableau.b, strict=True):
            stage = _advance(z, h, row, slopes)
            slopes.append(evaluate(stage, u + c * h, h * b, n + c))
        if visit is not None:
            visit(u, z, slopes[0])
        z = _advance(z, h, tableau.b, slopes)
    return z


def _advance(z: Tensor, h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """z + h sum_j w_j v_j."""
    for w, slope in zip(weights, slopes, strict=False):
        if w:
            z = z + h * w * slope
    return z
