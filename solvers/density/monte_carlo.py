"""Averages over random draws, each with its standard error: one number for each sample of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer, require_number
from backdrift.solvers.density.noisy_sum import NoisySum
from backdrift.solvers.noise import FORWARD, TIMES, Noise


class Sampling(TypedDict, total=False):
    """How an integral over the noise is sampled. All estimators by `stratified_integral` take these.

    Attributes:
        strata: equal parts of the range of log(sigma/alpha); 32 by default.
        draws: in each part, at least 2; 2 by default.
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
        """The mean over samples, and its standard error over samples and draws together."""
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
    """Half the width of a two-sided interval of Student's t, in standard errors, shaped like `degrees`.

    Raises:
        ValueError: if `level` is not between 0 and 1.
    """
    from scipy import stats  # takes a second to import

    require_number("level", level, above=0, below=1)
    quantile = stats.t.ppf(0.5 + level / 2, degrees.detach().cpu().numpy())
    return torch.as_tensor(quantile, dtype=degrees.dtype, device=degrees.device)


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
    """The integral of E[integrand(u, noise)] over u from `low` to `high`, for each sample.

    Each of the equal `strata` of [low, high] gets `draws` uniform points, each with its own noise. The spread within
    the strata gives the variance (Cochran 1977, chapter 5).

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
    integral, width = NoisySum(x), (high - low) / strata
    for j in range(strata):
        u = [low + width * (j + torch.special.ndtr(times())) for _ in range(draws)]
        integral.add(width, torch.stack([integrand(point, noise()) for point in u]), j)
    variance, degrees = integral.error()
    return MonteCarlo(integral.total, variance.sqrt(), degrees, strata * draws * evaluations, seed)
