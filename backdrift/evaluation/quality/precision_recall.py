"""Precision and recall: how many samples lie where real ones are, and the other way round."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.quality.feature_set import FeatureSet, both

GROUPS = 10
"""Groups of the reference that are left out one after the other, for the error."""

TILE = 2000
"""Rows of distances that are computed at once."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Both shares, with their standard errors.

    Attributes:
        precision: the share of generated samples within the real ones.
        recall: the share of real samples within the generated ones.
    """

    precision: Estimate
    recall: Estimate


def precision_recall(x: Tensor | FeatureSet, y: Tensor | FeatureSet, neighbours: int = 3) -> PrecisionRecall:
    """The share of each set that lies in the region of the other (Kynkäänniemi et al. 2019, eqs. 1 and 2).

    The region of a set is the union of balls around its points, each of which reaches to the point's k-th nearest
    neighbour in the set. Precision is the share of x in the region of y, recall the share of y in that of x. Two sets
    of one distribution do not reach 1, since the balls leave gaps: for k = 1 in one dimension both are 3/4. Compare
    sets of equal sizes, and compare with what the training set has.

    The standard error is that of a share of independent samples, and of the region by a jackknife over tenths of the
    other set. Both use the kept features of a set.

    Args:
        x: features `[n, ...]` of generated samples, or a set of them.
        y: features of the same number `[m, ...]` of real samples, or a set of them.
        neighbours: k, at least 1.

    Raises:
        ValueError: if `neighbours` is below 1, a set holds fewer than `neighbours` + 12 samples, or the sets have
            different numbers of features.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: expected at least 1, got {neighbours}")
    first, second = (found.kept for found in both(x, y, neighbours + GROUPS + 2))
    return PrecisionRecall(_share_within(first, second, neighbours), _share_within(second, first, neighbours))


def _share_within(points: Tensor, reference: Tensor, k: int) -> Estimate:
    share = float(_within(points, reference, k).mean())
    group = torch.arange(len(reference)) % GROUPS
    left_out = torch.stack([_within(points, reference[group != g], k).mean() for g in range(GROUPS)])
    of_region = float((left_out - left_out.mean()).square().sum()) * (GROUPS - 1) / GROUPS
    # Two hits and two misses more, so that a share of 0 or 1 has an error (Agresti & Coull 1998).
    p = (share * len(points) + 2) / (len(points) + 4)
    return Estimate(share, math.sqrt(p * (1 - p) / (len(points) + 4) + of_region))


def _within(points: Tensor, reference: Tensor, k: int) -> Tensor:
    """Whether each point lies in the region of the reference, `[n]` of zeros and ones."""
    # The nearest neighbour of a point in its own set is the point itself.
    radius = torch.cat([torch.cdist(rows, reference).kthvalue(k + 1, 1).values for rows in reference.split(TILE)])
    return torch.cat([(torch.cdist(rows, reference) <= radius).any(1).double() for rows in points.split(TILE)])
