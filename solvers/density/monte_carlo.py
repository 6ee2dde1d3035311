"""Averages over random draws, each with its standard error: one number for each sample of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer
from backdrift.solvers.confidence import counted, student
from backdrift.solvers.noise import FORWARD, TIMES, Noise


class Sampling(TypedDict, total=False):
    """How an integral over the noise is sampled. All estimators by `stratified_integral` take these.

    Attributes:
        strata: equal parts of the range of log(sigma/alpha); 16 by default.
        draws: in each part, at least 2; 4 by default.
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
        value: in nats, `[batch]`.
        standard_error: of `value` over the draws, with the sample held fixed, `[batch]`.
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
        """The ends of a confidence interval for each value, `[batch]` each, by Student's t.

        Raises:
            ValueError: if `level` is not between 0 and 1.
        """
        width = student(level, self.degrees) * self.standard_error
        return self.value - width, self.value + width

    def mean(self) -> tuple[float, float]:
        """The mean over samples, and its standard error over samples and draws together.

        The standard error of one sample is that over its draws.
        """
        value = self.value.double()
        n = len(value)
        return float(value.mean()), float(value.std() / math.sqrt(n)) if n > 1 else float(self.standard_error[0])

    def __str__(self) -> str:
        mean, error = self.mean()
        return (
            f"{mean:.5g} ± {error:.2g} nats over {counted(len(self.value))}; "
            f"each ± {float(self.standard_error.mean()):.2g}, {self.nfe} NFE, seed {self.seed}"
        )


def stratified_integral(
    integrand: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    low: float,
    high: float,
    *,
    strata: int = 16,
    draws: int = 4,
    seed: int = 0,
    first: int = 0,
    evaluations: int = 1,
) -> MonteCarlo:
    """The integral of E[integrand(u, noise)] over u from `low` to `high`, for each sample.

    Each of the equal `strata` of [low, high] gets `draws` uniform points, each with its own noise. The spread within
    the strata gives the variance (Cochran 1977, chapter 5), and `spread_degrees` its degrees of freedom. As many draws
    in more strata have a variance that is a few per cent smaller, but it is known less well: with two draws in each of
    32 strata, intervals of 95% hold 92 to 94%.

    Args:
        integrand: a function of u `[batch]` in float64 and of noise ~ N(0, I), shaped like x, with values `[batch]`.
        x: the batch, `[batch, ...]`.
        low, high: the range of u.
        strata: equal parts of the range.
        draws: in each part, at least 2.
        seed: of the draws.
        first: index of the first sample of x in the data set that x is a part of.
        evaluations: of the model in one call of `integrand`.

    Raises:
        ValueError: if `strata` or `draws` is too small.
    """
    require_integer("strata", strata, 1)
    require_integer("draws", draws, 2)
    noise = Noise(seed, tuple(x.shape), first=first, stream=FORWARD, dtype=x.dtype, device=x.device)
    times = Noise(seed, (len(x),), first=first, stream=TIMES, dtype=torch.float64, device=x.device)
    width = (high - low) / strata
    means, variances = [], []
    for j in range(strata):
        u = [low + width * (j + torch.special.ndtr(times())) for _ in range(draws)]
        values = torch.stack([integrand(point, noise()) for point in u])
        means.append(width * values.mean(0))
        variances.append(width**2 / draws * values.var(0))
    spread = torch.stack(variances)
    return MonteCarlo(
        value=torch.stack(means).sum(0),
        standard_error=spread.sum(0).sqrt(),
        degrees=spread_degrees(spread, draws),
        nfe=strata * draws * evaluations,
        seed=seed,
    )


def spread_degrees(variances: Tensor, draws: int) -> Tensor:
    r"""Degrees of freedom behind a sum V of variances v_j that are each known from a few draws, `[batch]`:

    .. math:: 2 V^2 / \mathrm{Var}(V) - 2, \quad \mathrm{Var}(V) = \frac{n}{2 (n - 1)} \sum_j (v_{j+1} - v_j)^2

    The first is Satterthwaite's (1946) match of V to a chi-square, and 2 corrects it for the spread of V itself, as in
    Welch (1947). The variance of V is that of successive differences (von Neumann 1941), since neighbouring terms are
    alike. Unlike that of normal draws it sees heavy tails: a rare large draw makes one v_j large. It does not see that
    few neighbouring terms make up most of V. So there are at most

    .. math:: (\mathrm{draws} - 1) V^2 / \sum_j v_j^2

    degrees, which is Satterthwaite's formula for normal draws. There is at least one, and there are infinitely many
    where V is 0.

    Args:
        variances: v_j, in the order of the terms, `[n, batch]`.
        draws: behind each of them.
    """
    n, total = len(variances), variances.sum(0)
    degrees = (draws - 1) * total.square() / variances.square().sum(0)
    if n > 1:
        spread = variances.diff(dim=0).square().sum(0) * n / (2 * (n - 1))
        degrees = torch.minimum(degrees, 2 * total.square() / spread - 2)
    return degrees.clamp(min=1).masked_fill(total == 0, math.inf)
