"""Integrals along a path from values at few of its points, which need not be nodes of the solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Visit = Callable[[float, Tensor, Tensor], None]
"""Called with (u, z, dz/du) at each node of a solver's path."""


def gauss_legendre(count: int, first: float, last: float) -> tuple[Tensor, Tensor]:
    """The nodes and weights, `[count]` each, of the rule that is exact for polynomials up to degree 2 count - 1.

    Args:
        count: number of nodes, which rise.
        first, last: ends of the interval.
    """
    place, weights = np.polynomial.legendre.leggauss(count)
    half = 0.5 * (last - first)
    return torch.from_numpy(first + half * (place + 1)), torch.from_numpy(half * weights)


class Quadrature:
    """The integral over u of f(z(u), u) along a path, whose nodes are given one after the other.

    Between two nodes the path is the cubic of Hermite through their states and velocities. Its order is 4, like that
    of the solvers.

    Args:
        rule: u and weight of each node of the rule, with u rising.
        integrand: f, a function of z `[batch, ...]` and u with values `[batch]`.

    Attributes:
        total: the integral over the part of the path so far, `[batch]`.
        count: how often f was evaluated.
    """

    def __init__(self, rule: Sequence[tuple[float, float]], integrand: Callable[[Tensor, float], Tensor]) -> None:
        self.ahead, self.integrand = list(reversed(rule)), integrand
        self.total: Tensor | float = 0.0
        self.count = 0
        self.behind: tuple[float, Tensor, Tensor]

    def visit(self, u: float, z: Tensor, velocity: Tensor) -> None:
        """Take in the next node of the path: u, z `[batch, ...]` and dz/du, shaped like z."""
        while self.ahead and self.ahead[-1][0] <= u:
            at, weight = self.ahead.pop()
            start, behind, slope = self.behind
            h = u - start
            s = (at - start) / h
            between = (1 + 2 * s) * (1 - s) ** 2 * behind + s * s * (3 - 2 * s) * z
            between = between + s * (1 - s) * h * ((1 - s) * slope - s * velocity)
            self.total = self.total + weight * self.integrand(between, at)
            self.count += 1
        self.behind = u, z, velocity
