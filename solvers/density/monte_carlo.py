"""Averages over random draws, each with its standard error: one number for each sample of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer
from backdrift.solvers.noise import FORWARD, TIMES, Noise


class Sampling(TypedDict, total=False):
    """How an integral over the noise is sampled, see `stratified_integral`: all estimators here take these.

    Attributes:
        strata: parts of the range of log(sigma/alpha); 32 by default.
        draws: in each part, at least 2, the default.
        seed: of the draws; 0 by default.
        first: index of the first sample of x in the data set that x is a part of; 0 by default.
    """

    strata: int
    draws: int
    seed: int
    first: int


@dataclass(frozen=True)
class MonteCarlo:
    """A number for each sample, by random draws.

    Attributes:
        value: `[batch]`, in nats.
        standard_error: of `value` over the draws, the sample held fixed, `[batch]`.
        degrees: degrees of freedom behind `standard_error`, `[batch]`.
        nfe: evaluations of the model for a sample.
        seed: of the draws.
    """

    value: Tensor
    standard_error: Tensor
    degrees: Tensor
    nfe: int
    seed: int

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of a confidence interval for each value, by Student's t."""
        width = student(level, self.degrees) * self.standard_error
        return self.value - width, self.value + width

    def mean(self) -> tuple[float, float]:
        """The mean over samples and its standard error, over samples and draws together."""
        value = self.value.double()
        n = len(value)
        return float(value.mean()), float(value.std() / math.sqrt(n)) if n > 1 else float(self.standard_error[0])

    def __str__(self) -> str:
        mean, error = self.mean()
        return (
            f"{mean:.5g} ± {error:.2g} nats over {len(self.value)} samples; "
            f"each ± {float(self.standard_error.mean()):.2g}, {self.nfe} NFE, seed {self.seed}"
        )


def student(level: float, degrees: Tensor) -> Tensor:
    """Half the width, in standard errors, of a two-sided interval of Student's t."""
    from scipy import stats  # takes a second to import

    quantile = stats.t.ppf(0.5 + level / 2, degrees.detach().cpu().numpy())
    return torch.as_tensor(quantile, dtype=degrees.dtype, device=degrees.device)


NEIGHBOURS = 4
"""Draws that a single one is compared with, half of them on each side."""

SHARED = 2.63
"""Such comparisons share draws: the variance of a sum of their squares is that of independent ones times so much.
At even places their weights are (1, -4, 6, -4, 1)/6, with autocorrelations -0.8, 0.4, -0.11, 0.01, and this is one and
twice the squares of those."""


class Tally:
    """The sum over j of w_j mean_k(g_jk) for noisy g_jk, and its variance.

    Of k > 1 draws the spread is the noise's. Single ones are compared with one another: two made at the same place
    on the path, as by "rk4" and "heun"; or else each with the cubic through its four neighbours, so that a mean
    that changes along the path is not taken for noise. Degrees of freedom by Welch (1947).

    Args:
        x: a batch, whose length, dtype and device are meant.
    """

    def __init__(self, x: Tensor) -> None:
        self.total, self.variance, self.fourth = (x.new_zeros(len(x)) for _ in range(3))
        self.noise = torch.full_like(self.total, math.nan)  # the latest estimate of one draw's variance
        self.single: list[tuple[Tensor, float]] = []  # values and places of the latest single draws
        self.waiting: list[float] = []  # squares of the weights of those whose noise is not yet known

    def add(self, weight: float, draws: Tensor, place: float) -> None:
        """Another term: its weight, its draws `[k, batch]`, and where on the path they were made."""
        k, value = len(draws), draws.mean(0)
        self.total += weight * value
        if k > 1:
            self._note(weight**2 / k * draws.var(0), k - 1)
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
        """The variance of the sum and its degrees of freedom."""
        if len(self.waiting) == len(self.single) > 1:
            self._compare(self.single, 0)
        if self.waiting:
            self._note(sum(self.waiting) * self.noise, 1, SHARED)
            self.waiting.clear()
        degrees = (self.variance.square() / self.fourth - 2).clamp(min=1)
        return self.variance, degrees.masked_fill(self.variance == 0, math.inf)

    def _compare(self, single: list[tuple[Tensor, float]], later: int) -> None:
        """Count all that waits, but for the latest few, as having the noise of these draws' middle one."""
        middle = len(single) // 2
        value, here = single[middle]
        others = [draw for k, draw in enumerate(single) if k != middle]
        # Lagrange's polynomials at the middle one's place.
        shares = [math.prod((here - q) / (p - q) for _, q in others if q != p) for _, p in others]
        off = value - sum(share * other for share, (other, _) in zip(shares, others, strict=True))
        self.noise = off.square() / (1 + sum(share**2 for share in shares))
        known = len(self.waiting) - later
        self._note(sum(self.waiting[:known]) * self.noise, 1, SHARED if len(others) > 1 else 1.0)
        del self.waiting[:known]

    def _note(self, variance: Tensor, degrees: int, shared: float = 1.0) -> None:
        """Count a term's variance, known with so many degrees of freedom."""
        self.variance += variance
        self.fourth += shared * variance.square() / (degrees + 2)


def stratified_integral(
    integrand: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    low: float,
    high: float,
    *,
    strata: int = 32,
    draws: int = 2,
    seed: int = 0,
    first: int = 0,
    evaluations: int = 1,
) -> MonteCarlo:
    """The integral from low to high of E[integrand(u, noise)] du, for each sample.

    Each of the equal `strata` of [low, high] gets `draws` points, uniform in it, each with its own
    noise; the spread within strata is the variance (Cochran 1977, chapter 5).

    Args:
        integrand: of u `[batch]` in float64 and noise ~ N(0, I) like x; gives `[batch]`.
        x: the batch meant, `[batch, ...]`.
        low, high: the range of u.
        strata: parts of the range.
        draws: at least 2, for each part.
        seed: of the draws.
        first: index of the first sample.
        evaluations: of the model in one call of the integrand.

    Raises:
        ValueError: if `strata` or `draws` is too small.
    """
    require_integer("strata", strata, 1)
    require_integer("draws", draws, 2)
    noise = Noise(seed, tuple(x.shape), first=first, stream=FORWARD, dtype=x.dtype, device=x.device)
    times = Noise(seed, (len(x),), first=first, stream=TIMES, dtype=torch.float64, device=x.device)
    tally, width = Tally(x), (high - low) / strata
    for j in range(strata):
        u = [low + width * (j + torch.special.ndtr(times())) for _ in range(draws)]
        tally.add(width, torch.stack([integrand(point, noise()) for point in u]), j)
    variance, degrees = tally.error()
    return MonteCarlo(tally.total, variance.sqrt(), degrees, strata * draws * evaluations, seed)
