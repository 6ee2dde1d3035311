"""A weighted sum of noisy values, and its variance as their own spread tells it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEIGHBOURS = 4
"""A single draw is compared with this many others, half of them on each side."""

SHARED = 2.63
"""The variance of a sum of squared comparisons, divided by what it would be if they were independent.

They are not, since neighbouring ones share draws. At evenly spaced places a comparison weighs its draws by
(1, -4, 6, -4, 1)/6. Comparisons that are 1, 2, 3 and 4 places apart have the correlations -0.8, 0.4, -0.11 and 0.01.
The factor is one plus twice the sum of their squares.
"""


class NoisySum:
    """The sum over j of w_j mean_k(g_jk) for noisy g_jk, and its variance.

    Where a term has several draws, their spread is the noise. Single draws are compared with one another. Two draws
    at the same place on the path, as "rk4" and "heun" make them, are compared directly. Any other is compared with the
    cubic through its four neighbours, so that a mean that changes along the path is not taken for noise. The degrees
    of freedom are those of Welch (1947).

    Args:
        x: a batch, which gives the length, dtype and device of the sum.

    Attributes:
        total: the sum so far, `[batch]`.
    """

    def __init__(self, x: Tensor) -> None:
        self.total, self.variance, self.fourth = (x.new_zeros(len(x)) for _ in range(3))
        self.noise = torch.full_like(self.total, math.nan)  # the latest estimate of one draw's variance
        self.single: list[tuple[Tensor, float]] = []  # values and places of the latest single draws
        self.waiting: list[float] = []  # squares of the weights of those whose noise is not yet known

    def add(self, weight: float, draws: Tensor, place: float) -> None:
        """Add a term: its weight, its draws `[k, batch]`, and where on the path they were made."""
        k, value = len(draws), draws.mean(0)
        self.total += weight * value
        if k > 1:
            self._count(weight**2 / k * draws.var(0), k - 1)
            return
        self.single.append((value, place))
        self.waiting.append(weight**2)
        if len(self.single) > 1 and self.single[-2][1] == place:
            self._compare(self.single[-2:], 0)
            self.single.clear()
        elif len(self.single) == NEIGHBOURS + 1:
            self._compare(self.single, NEIGHBOURS // 2)
            self.single.pop(0)

    def error(self) -> tuple[Tensor, Tensor]:
        """The variance of the sum and its degrees of freedom, `[batch]` each."""
        if len(self.waiting) == len(self.single) > 1:
            self._compare(self.single, 0)
        if self.waiting:
            self._count(sum(self.waiting) * self.noise, 1, SHARED)
            self.waiting.clear()
        degrees = (self.variance.square() / self.fourth - 2).clamp(min=1)
        return self.variance, degrees.masked_fill(self.variance == 0, math.inf)

    def _compare(self, single: list[tuple[Tensor, float]], later: int) -> None:
        """Estimate the noise from the middle one of these draws, and take it for all that wait but the latest few.

        Args:
            single: the draws to compare.
            later: how many of those that wait are left for the next comparison.
        """
        middle = len(single) // 2
        value, here = single[middle]
        others = [draw for k, draw in enumerate(single) if k != middle]
        # Lagrange's polynomials at the place of the middle one.
        shares = [math.prod((here - q) / (p - q) for _, q in others if q != p) for _, p in others]
        off = value - sum(share * other for share, (other, _) in zip(shares, others, strict=True))
        self.noise = off.square() / (1 + sum(share**2 for share in shares))
        known = len(self.waiting) - later
        self._count(sum(self.waiting[:known]) * self.noise, 1, SHARED if len(others) > 1 else 1.0)
        del self.waiting[:known]

    def _count(self, variance: Tensor, degrees: int, shared: float = 1.0) -> None:
        """Add the variance of a term, which is known with so many degrees of freedom."""
        self.variance += variance
        self.fourth += shared * variance.square() / (degrees + 2)
