"""Observations in the units of a network, and how far one is from every simulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

LINEAR = 4.0
"""Numbers are changed beyond so many standard deviations of the bulk only."""

COMPARED = 1000
"""Simulations whose distances to their nearest neighbours are the yardstick, at most."""


@dataclass(frozen=True, eq=False)
class ObservationScale:
    """Each number less its median, over half of the width of its middle 68%. Beyond 4 of it a logarithm takes over.

    One outlier of a simulator therefore neither sets the scale of all others nor reaches the network as a huge number.

    Args:
        median, width: `[k]`, float64. The width of a number that never varies is 1.
        neighbours: of the simulations in these units.
        usual: the distance to the nearest simulation that differs, which 99% of the simulations have at most. (Counts
            and other whole numbers are often the same.)
    """

    median: Tensor
    width: Tensor
    neighbours: NearestNeighbors
    usual: float

    @classmethod
    def of(cls, x: Tensor) -> ObservationScale:
        """The scale of simulations, `[n, k]`, float64."""
        low, median, high = x.quantile(torch.tensor([0.16, 0.5, 0.84], dtype=x.dtype), dim=0)
        width = (high - low) / 2
        # What rounding leaves of a constant is no width. The median tells its size, which an outlier does not change.
        least = 1e-12 * x.abs().median(0).values
        spread = x.std(0)  # of numbers of which more than two thirds are the same
        width = torch.where(width > least, width, spread)
        width = torch.where(width > least, width, 1.0)
        rows = _compressed((x - median) / width).numpy()
        rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]  # each once, in their order
        neighbours = NearestNeighbors().fit(rows)
        if len(rows) == 1:
            return cls(median, width, neighbours, 0.0)
        distances = neighbours.kneighbors(rows[:COMPARED], n_neighbors=2)[0][:, 1]
        return cls(median, width, neighbours, float(np.quantile(distances, 0.99)))

    def standardised(self, x: Tensor) -> Tensor:
        """Observations `[n, k]` in the units of the network, float64."""
        return _compressed((x - self.median) / self.width)

    def distance(self, x: Tensor) -> Tensor:
        """How far the nearest simulation is from each row of `x` `[n, k]`, over `usual`: `[n]`."""
        found = self.neighbours.kneighbors(self.standardised(x).numpy(), n_neighbors=1)[0][:, 0]
        return torch.from_numpy(found / max(self.usual, np.finfo(float).tiny))


def _compressed(v: Tensor) -> Tensor:
    """v within +-4, and 4 + log(1 + |v| - 4) with the sign of v beyond."""
    return torch.where(v.abs() <= LINEAR, v, v.sign() * (LINEAR + (v.abs() - LINEAR).clamp(min=0).log1p()))
