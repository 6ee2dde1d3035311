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


def quadrature_noise(terms: Tensor) -> Tensor:
    r"""What the rough part of an integrand adds to its integral by a rule of Gauss and Legendre: a standard deviation.

    With terms W_i f_i of the rule and the Legendre polynomials P_k at its nodes, the coefficients of the integrand are

    .. math:: b_k = \sqrt{2 k + 1} \sum_i W_i f_i P_k(x_i),

    and b_0 is the integral. Those of a smooth integrand fall off faster than any power of k. Noise at the nodes adds
    about the same to each of them, b_0 among them, so that the root mean square of the last eighth shows it. The output
    of a network is rough in time: it sees waves of the timestep that are shorter than the distance of the nodes.

    Args:
        terms: W_i f_i at the rising nodes of the rule, `[count, ...]`.

    Returns:
        The standard deviation, `[...]`; 0 for a single node, which shows nothing.
    """
    count = len(terms)
    if count == 1:
        return torch.zeros_like(terms[0])
    nodes = np.polynomial.legendre.leggauss(count)[0]
    last = np.arange(count - max(1, count // 8), count)
    basis = np.polynomial.legendre.legvander(nodes, count - 1)[:, last] * np.sqrt(2 * last + 1)
    return torch.tensordot(torch.from_numpy(basis).to(terms).T, terms, 1).square().mean(0).sqrt()


class Quadrature:
    """The integral over u of f(z(u), u) along a path, whose nodes are given one after the other.

    Between two nodes the path is the cubic of Hermite through their states and velocities. Its order is 4, like that
    of the solvers.

    Args:
        rule: u and weight of each node of the rule, with u rising.
        integrand: f, a function of z `[batch, ...]` and u with values `[batch]`.

    Attributes:
        terms: the weights times the values of f so far, `[batch]` each.
    """

    def __init__(self, rule: Sequence[tuple[float, float]], integrand: Callable[[Tensor, float], Tensor]) -> None:
        self.ahead, self.integrand = list(reversed(rule)), integrand
        self.terms: list[Tensor] = []
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
            self.terms.append(weight * self.integrand(between, at))
        self.behind = u, z, velocity

    @property
    def total(self) -> Tensor:
        """The integral over the part of the path so far, `[batch]`."""
        return torch.stack(self.terms).sum(0)

    @property
    def noise(self) -> Tensor:
        """The standard deviation of the integral that comes from the rough part of f, see `quadrature_noise`."""
        return quadrature_noise(torch.stack(self.terms))
