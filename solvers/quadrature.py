"""Integrals along a path from few of its points, which need not be among those that the path was solved at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Visit = Callable[[float, Tensor, Tensor], None]
"""(u, z, dz/du): what a solver tells of each node of its path."""


def gauss_legendre(count: int, first: float, last: float) -> tuple[Tensor, Tensor]:
    """The `count` nodes, rising, and weights of the rule that is exact for polynomials up to degree 2 count - 1."""
    place, weights = np.polynomial.legendre.leggauss(count)
    half = 0.5 * (last - first)
    return torch.from_numpy(first + half * (place + 1)), torch.from_numpy(half * weights)


class Quadrature:
    """The integral over u of f(z(u), u), along a path told node by node.

    Between its nodes the path is Hermite's cubic through states and velocities: of order 4, as the solvers are.

    Args:
        rule: (u, weight), u rising.
        integrand: f, from `[batch, ...]` and u to `[batch]`.

    Attributes:
        total: the integral over what was told of the path, `[batch]`.
        count: how often f was asked for.
    """

    def __init__(self, rule: Sequence[tuple[float, float]], integrand: Callable[[Tensor, float], Tensor]) -> None:
        self.ahead, self.integrand = list(reversed(rule)), integrand
        self.total: Tensor | float = 0.0
        self.count = 0
        self.behind: tuple[float, Tensor, Tensor]

    def visit(self, u: float, z: Tensor, velocity: Tensor) -> None:
        """To be called at each node of the path in turn."""
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
