"""Checks of posterior samples: their residuals against the noise, and their credible intervals against the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy.stats
import torch
from torch import Tensor

LEVELS = (0.5, 0.8, 0.9)
"""Levels of the credible intervals, as near as the number of samples allows."""

DOUBTFUL = 0.01
"""A p-value below this says that two things do not agree."""


@dataclass(frozen=True)
class ChiSquared:
    """A sum of squared residuals in standard deviations, and what the noise alone would give.

    Attributes:
        value: the sum.
        degrees: of freedom, the number of residuals.
        p_value: two-sided: twice the smaller of the probabilities to be at most and at least `value`.
        expected: what the noise alone gives on average; `degrees` for normal noise.
        standard_deviation: of the sum under the noise alone.
    """

    value: float
    degrees: int
    p_value: float
    expected: float
    standard_deviation: float

    @classmethod
    def of(cls, value: float, degrees: int) -> ChiSquared:
        """The test of a sum of squared normal residuals."""
        return cls.of_moments(value, degrees, float(degrees), math.sqrt(2 * degrees))

    @classmethod
    def of_moments(cls, value: float, degrees: int, expected: float, standard_deviation: float) -> ChiSquared:
        """The test of a sum with this expectation and deviation, taken as a multiple of a chi-squared number.

        The multiple and the degrees of freedom are those that have both moments (Satterthwaite 1946, eq. 4). They are 1
        and `degrees` for normal residuals.
        """
        factor = standard_deviation**2 / (2 * expected)
        law = scipy.stats.chi2(expected / factor, scale=factor)
        p_value = float(min(1.0, 2 * min(law.cdf(value), law.sf(value))))
        return cls(value, degrees, p_value, expected, standard_deviation)


@dataclass(frozen=True)
class Coverage:
    """How often credible intervals of the components hold the truth.

    Attributes:
        nominal: the probability that an interval of the exact posterior has.
        share: of the components of all samples whose interval holds the truth.
        standard_error: of `share`, from its spread over the samples, since the components of a sample depend on each
            other. It is at least that of independent components, as a few samples may agree by chance; nan for a single
            sample.
        samples: how many.
    """

    nominal: float
    share: float
    standard_error: float
    samples: int

    @property
    def p_value(self) -> float:
        """Of `share` being `nominal`, by Student's t over the samples; nan for a single sample."""
        if self.samples < 2:
            return math.nan
        off = abs(self.share - self.nominal)
        return float(2 * scipy.stats.t(self.samples - 1).sf(off / self.standard_error))


def coverages(draws: Tensor, truth: Tensor, chosen: Tensor | None = None) -> list[Coverage]:
    r"""The coverage of central credible intervals between order statistics of posterior samples.

    If the truth and S samples are independent draws of one posterior, the truth is as likely to stand in each of the
    S + 1 gaps between them. The interval from the k-th smallest to the k-th largest sample then holds it with
    probability

    .. math:: 1 - \frac{2 k}{S + 1}

    exactly (Wilks 1941). There is one interval for each of `LEVELS`, with the k that comes nearest.

    Args:
        draws: posterior samples of each truth, `[n, S, ...]`.
        truth: `[n, ...]`.
        chosen: which components count, boolean and shaped like one sample; None for all.

    Raises:
        ValueError: if no component is chosen.
    """
    if chosen is not None and not bool(chosen.any()):
        raise ValueError("chosen: expected at least one component")
    n, number = draws.shape[:2]
    ordered, flat = draws.flatten(2).sort(1).values, truth.flatten(1)
    if chosen is not None:
        ordered, flat = ordered[..., chosen.flatten()], flat[:, chosen.flatten()]
    found: dict[int, Coverage] = {}
    for level in LEVELS:
        k = min(max(1, round((1 - level) / 2 * (number + 1))), number // 2)
        if k < 1 or k in found:
            continue
        inside = (flat >= ordered[:, k - 1]) & (flat <= ordered[:, number - k])
        each = inside.double().mean(1)
        nominal = 1 - 2 * k / (number + 1)
        independent = math.sqrt(nominal * (1 - nominal) / inside.numel())
        error = max(independent, float(each.std()) / math.sqrt(n)) if n > 1 else math.nan
        found[k] = Coverage(nominal, float(each.mean()), error, n)
    return list(found.values())


def root_mean_square(error: Tensor) -> float:
    """The root of the mean square of all entries."""
    return float(torch.linalg.vector_norm(error.double()) / math.sqrt(error.numel()))
