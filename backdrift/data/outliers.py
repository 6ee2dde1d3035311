"""Values that lie so far from all others that they would set the scale of a column alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FAR = 50.0
"""A value is an outlier if it is more than so many times the spread of the bulk away from the median."""

RARE = 0.01
"""Outliers set their feature's scale aside if at most this share of the samples holds one. Otherwise the feature has
heavy tails, and they are part of it."""

QUANTILES = ((0.25, 1.349), (0.1, 2.563), (0.01, 4.653))
"""The distance between the quantiles q and 1 - q of a normal density, in standard deviations. The first is the
interquartile range. The others are for features of which more than half of the values are the same."""


class Outliers(NamedTuple):
    """The outliers of one feature.

    Attributes:
        feature: the number of the column of vectors, or None where all components of a sample share one scale.
        samples: how many training samples hold one.
        farthest: the value farthest from the median.
        median: of the feature.
        spread: the standard deviation of a normal density with the same interquartile range.
        rare: whether at most the share `RARE` of the samples holds one, so that the bulk sets the scale.
    """

    feature: int | None
    samples: int
    farthest: float
    median: float
    spread: float
    rare: bool

    def told(self, name: str, columns: Sequence[str] | None, total: int, mapped: bool = False) -> str:
        """What they are and what is done about them, in a line for the user.

        Args:
            name: of the data set.
            columns: the names of its columns, or None.
            total: its number of training samples.
            mapped: whether a map of the column brings them near.
        """
        what = name if self.feature is None else f"{name}, {column_name(self.feature, columns)}"
        found = (
            f"{what}: {self.samples} of {total} training samples are more than {FAR:g} times the spread of the "
            f"bulk away from the median (farthest {self.farthest:.6g}, median {self.median:.6g}, spread "
            f"{self.spread:.4g} by the interquartile range)"
        )
        if mapped:
            return f"{found}; a map of the column brings them near. Remove these samples if they are errors"
        if self.rare:
            return f"{found}; the median and this spread set the scale. Remove these samples if they are errors"
        return f"{found}; the standard deviation sets the scale. The logarithm of such values is easier to learn"


def column_name(number: int, columns: Sequence[str] | None, left_out: int = 0) -> str:
    """A column in messages: its number from 1, with its name if it has one.

    Args:
        number: from 0, among the columns that are kept.
        columns: the names of these, or None.
        left_out: how many columns stand before them in the file.
    """
    place = f"column {number + 1 + left_out}"
    return place if columns is None else f"{place} ({columns[number]!r})"


ENOUGH = 100_000
"""The median and the spread of a feature are those of so many of its values, drawn at random, if it has more. They are
then known to half a percent."""


def find_outliers(train: Tensor) -> list[Outliers]:
    """The outliers of continuous training samples `[n, ...]`, by feature.

    Each column of vectors is a feature. The components of pictures and series share one scale, and are one feature.
    """
    values = train.double().cpu().numpy()
    features = values if values.ndim == 2 else values.reshape(-1, 1)
    seen = features
    if len(features) > ENOUGH:
        seen = features[np.random.default_rng(0).integers(len(features), size=ENOUGH)]
    with np.errstate(over="ignore", invalid="ignore"):  # values near the largest float64 overflow to inf, which is far
        median, spread = np.median(seen, axis=0), spread_of(seen)
        distance = np.maximum(features.max(0) - median, median - features.min(0))
    found = []
    for number in np.flatnonzero((distance > FAR * spread) & (spread > 0)).tolist():
        with np.errstate(over="ignore"):
            away = np.abs(features[:, number] - median[number])
        samples = int((away > FAR * spread[number]).reshape(len(values), -1).any(1).sum())
        farthest = float(features[away.argmax(), number])
        feature = number if values.ndim == 2 else None
        rare = samples <= max(1, RARE * len(values))
        found.append(Outliers(feature, samples, farthest, float(median[number]), float(spread[number]), rare))
    return found


def spread_of(features: np.ndarray) -> np.ndarray:
    """The spread of the bulk of each column of `[n, d]`: the first of `QUANTILES` that are apart; 0 if none are."""
    spread = np.zeros(features.shape[1])
    for level, deviations in QUANTILES:
        still = spread == 0
        if still.any():
            # Quantiles that are values of the column: between two values, interpolation makes up a small spread.
            low, high = np.quantile(features[:, still], (level, 1 - level), axis=0, method="inverted_cdf")
            spread[still] = (high - low) / deviations
    return spread


def range_of(train: Tensor, found: Sequence[Outliers]) -> tuple[float, float]:
    """The smallest and the largest training value, without rare outliers where all components share one scale."""
    for outliers in found:
        if outliers.rare and outliers.feature is None:
            train = train[(train.double() - outliers.median).abs() <= FAR * outliers.spread]
    return float(train.min()), float(train.max())


def rows_of_bulk(train: Tensor, found: Sequence[Outliers]) -> Tensor:
    """The training samples v `[n, ...]` without those that hold rare outliers."""
    kept = torch.ones(len(train), dtype=torch.bool, device=train.device)
    for outliers in found:
        if outliers.rare:
            values = train if outliers.feature is None else train[:, [outliers.feature]]
            kept &= ((values.double() - outliers.median).abs() <= FAR * outliers.spread).flatten(1).all(1)
    return train if bool(kept.all()) else train[kept]


def bulk_of(x: Tensor, found: Sequence[Outliers]) -> Tensor:
    """The components of x `[n, ...]` in the model's units, flattened, without the rare outliers."""
    rare = [outliers for outliers in found if outliers.rare]
    if not rare:
        return x.flatten()
    far = x.abs() > FAR
    if x.ndim == 2:
        scaled = torch.zeros(x.shape[1], dtype=torch.bool)
        scaled[[outliers.feature for outliers in rare if outliers.feature is not None]] = True
        far &= scaled
    return x[~far]
