"""Markov chains whose jumps lead along lines of cells: their steps in time need tridiagonal matrices alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_banded
from scipy.sparse import coo_array, csc_array


@dataclass(frozen=True)
class Lines:
    """The rates of the jumps between neighbours along parallel lines, in the order of the cells along the lines.

    Attributes:
        order: the numbers of all cells, line after line, `[n]`.
        forward: the rate from each cell to the next in `order`, 0 at the end of a line, `[n - 1]`.
        backward: the rate from each cell but the first to the one before it, 0 at the start of a line, `[n - 1]`.
        escape: the rate out of the cells through open ends, `[n]`.
    """

    order: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    escape: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether all rates are finite."""
        return all(bool(np.isfinite(rate).all()) for rate in (self.forward, self.backward, self.escape))

    def midway(self, other: Lines) -> Lines:
        """The mean of the rates of two times."""
        parts = ((self.forward, other.forward), (self.backward, other.backward), (self.escape, other.escape))
        return Lines(self.order, *(0.5 * (a + b) for a, b in parts))

    def weighted(self, ratio: np.ndarray) -> Lines:
        """The rates out of each cell times 1/2 (1 + ratio), with the ratio `[n]` in the order of the lines."""
        weight = 0.5 * (1 + ratio)
        return Lines(self.order, self.forward * weight[:-1], self.backward * weight[1:], self.escape * weight)

    def implicit(self, p: np.ndarray, h: float) -> np.ndarray:
        """The solution of (1 - h Q) p' = p, with p in the order of the lines.

        The columns of 1 - h Q are dominated by the diagonal. Elimination therefore needs no pivoting, and no density
        becomes negative.
        """
        bands = np.zeros((3, len(p)))
        bands[0, 1:] = -h * self.backward
        bands[1] = 1 + h * self.escape
        bands[1, :-1] += h * self.forward
        bands[1, 1:] += h * self.backward
        bands[2, :-1] = -h * self.forward
        found: np.ndarray = solve_banded((1, 1), bands, p, overwrite_ab=True, check_finite=False)
        return found

    def step(self, p: np.ndarray, h: float) -> tuple[np.ndarray, float]:
        """One step of second order of dp/dt = Q p, and the density that escapes in it.

        It is MPRK22(1) of Burchard, Deleersnijder & Meister (2003), whose first stage is backward Euler:

            (1 - h Q) p1 = p,    (1 - h/2 Q [1 + diag(p/p1)]) p2 = p.

        For rates that do not depend on p, its weights reduce to the ratio p/p1, which is at most 1 + h |Q_jj|.

        Args:
            p: the density in the cells, by their numbers, `[n]`.
            h: the length of the step.
        """
        before = p[self.order]
        first = self.implicit(before, h)
        ratio = np.divide(before, first, out=np.ones_like(before), where=first > 0)
        lines = self.weighted(ratio)
        second = lines.implicit(before, h)
        out = h * float(lines.escape @ second)
        balance = before.sum() / (second.sum() + out)  # 1, except for the rounding of the solve, which grows with h |Q|
        found = np.empty_like(p)
        found[self.order] = balance * second
        return found, balance * out

    def euler(self, p: np.ndarray, h: float) -> np.ndarray:
        """One step by backward Euler, of first order. p is by the numbers of the cells."""
        found = np.empty_like(p)
        found[self.order] = self.implicit(p[self.order], h)
        return found


def split_step(p: np.ndarray, now: Sequence[Lines], then: Sequence[Lines], h: float) -> tuple[np.ndarray, float]:
    """One step of second order of dp/dt = (Q_1 + Q_2 + ...) p, and the density that escapes in it.

    The directions follow one another, each with the mean of its rates at both ends of the step: half a step of all but
    the last, a whole one of the last, and half a step of the others in the reverse order (Strang 1968). With one
    direction there is nothing to split.

    Args:
        p: the density in the cells, `[n]`.
        now, then: the directions, with their rates at the start and at the end of the step.
        h: the length of the step.
    """
    *others, last = (a.midway(b) for a, b in zip(now, then, strict=True))
    lost = 0.0
    for lines, part in (*((each, h / 2) for each in others), (last, h), *((each, h / 2) for each in reversed(others))):
        p, out = lines.step(p, part)
        lost += out
    return p, lost


def euler_step(p: np.ndarray, then: Sequence[Lines], h: float) -> np.ndarray:
    """One step of first order: backward Euler along one direction after the other."""
    for lines in then:
        p = lines.euler(p, h)
    return p


def matrix(directions: Sequence[Lines]) -> tuple[csc_array, np.ndarray]:
    """The generator Q of dp/dt = Q p, with all directions in it, and the rates of escape, `[n]`.

    The columns of Q sum to minus the rates of escape.
    """
    size = len(directions[0].order)
    source = np.concatenate([part for each in directions for part in (each.order[:-1], each.order[1:])])
    target = np.concatenate([part for each in directions for part in (each.order[1:], each.order[:-1])])
    rate = np.concatenate([part for each in directions for part in (each.forward, each.backward)])
    escape = np.zeros(size)
    for each in directions:
        escape[each.order] += each.escape
    leaving = np.bincount(source, rate, size) + escape
    every = np.arange(size)
    entries = (np.concatenate([rate, -leaving]), (np.append(target, every), np.append(source, every)))
    return coo_array(entries, shape=(size, size)).tocsc(), escape
