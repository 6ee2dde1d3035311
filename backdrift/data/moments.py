"""Means and variances of a data set, in the units that a model works in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from backdrift.data.card import Moment
from backdrift.data.outliers import Outliers, bulk_of
from backdrift.data.units import Units

PER_COMPONENT = 1024
"""Up to so many components each has its own mean and variance. Beyond, there is one of each for all."""

CHUNK = 4096
"""Samples that are brought to float64 at once."""


def standard_deviation(train: Tensor, units: Units, outliers: Sequence[Outliers] = ()) -> float:
    """The standard deviation of x over all samples `[n, ...]` and components.

    That of discrete data includes the dequantisation. Rare outliers are left out.
    """
    if units.levels is None:
        return float(bulk_of(units.standardised(train), outliers).std())
    counts = torch.bincount(train.flatten().int(), minlength=units.levels).double()
    share, level = counts / counts.sum(), torch.arange(units.levels, dtype=torch.float64, device="cpu")
    variance = float((share * (level - (share * level).sum()).square()).sum())
    return 2 / units.levels * math.sqrt(variance + 1 / 12)  # of the levels and of u


def moments(train: Tensor, units: Units) -> tuple[Moment, Moment]:
    """Mean and variance of x over samples `[n, ...]`, dequantisation included.

    Returns:
        Each a tuple with a number for each component of the flattened sample, or one number for all components where
        there are more than `PER_COMPONENT`.
    """
    middle = 0.0 if units.levels is None else 0.5  # the mean of u

    def chunks() -> Iterator[Tensor]:
        for part in train.split(CHUNK):
            yield units.standardised(part.double() + middle).flatten(1)

    each = units.dim <= PER_COMPONENT
    axes, n = ((0,), len(train)) if each else ((0, 1), len(train) * units.dim)
    mean = torch.stack([part.sum(axes) for part in chunks()]).sum(0) / n
    squares = torch.stack([(part - mean).square().sum(axes) for part in chunks()]).sum(0)
    variance = squares / (n - 1) + (0.0 if units.levels is None else (2 / units.levels) ** 2 / 12)
    return (tuple(mean.tolist()), tuple(variance.tolist())) if each else (float(mean), float(variance))
