"""Numbers that are estimated from independent samples, each with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimated:
    """A number and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.1g}"


def mean_of(values: Tensor) -> Estimated:
    """The mean of independent numbers `[n]`."""
    return Estimated(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def ratio_of_means(part: Tensor, whole: Tensor) -> Estimated:
    """E part/E whole, with the error of a ratio of means."""
    ratio = float(part.mean() / whole.mean())
    return Estimated(ratio, float((part - ratio * whole).std()) / float(whole.mean()) / math.sqrt(len(part)))


def squared_mean(values: Tensor) -> Estimated:
    """|E values|^2 from vectors `[n, dim]`, by the mean of the products of two different ones (Chen & Qin 2010)."""
    products = values @ values.T
    products.fill_diagonal_(0.0)
    pairs = len(values) * (len(values) - 1)
    error = math.sqrt(2 * float(products.square().sum()) / pairs / pairs)
    return Estimated(float(products.sum()) / pairs, error)
