"""The kernel distance of features (KID), without bias."""

from __future__ import annotations

import torch
from torch import Tensor

from backdrift.evaluation.metrics import Estimate, discrepancy
from backdrift.evaluation.quality.feature_set import FeatureSet, both

TILE = 2000
"""Rows of a kernel matrix that are computed at once."""


def kernel_distance(x: Tensor | FeatureSet, y: Tensor | FeatureSet) -> Estimate:
    """The squared maximum mean discrepancy of features under the cubic kernel (Bińkowski et al. 2018, section 4):

        KID = E k(x, x') - 2 E k(x, y) + E k(y, y'),    k(a, b) = (a . b / dim + 1)^3,

    by the unbiased estimate over all pairs of kept features. It is 0 on average for two sets of one distribution and
    may be negative. The standard error is the jackknife's, over both sets. Memory grows with the number of samples and
    not with that of the pairs.

    Args:
        x: features `[n, ...]`, n >= 3, or a set of them.
        y: features of the same number `[m, ...]`, m >= 3, or a set of them; the reference.

    Raises:
        ValueError: if a set holds too few samples, or the sets have different numbers of features.
    """
    first, second = (found.kept for found in both(x, y, 3))
    across_x, across_y = _row_sums(first, second), _row_sums(second, first)
    within_x, within_y = (_row_sums(own, own) - _cubic(own.square().sum(1), own.shape[1]) for own in (first, second))
    # `discrepancy` is that of a distance, of which a kernel is the opposite.
    return discrepancy(-across_x, -across_y, -within_x, -within_y)


def _row_sums(a: Tensor, b: Tensor) -> Tensor:
    """sum_j k(a_i, b_j) for each i, `[n]`."""
    return torch.cat([_cubic(rows @ b.mT, a.shape[1]).sum(1) for rows in a.split(TILE)])


def _cubic(products: Tensor, dim: int) -> Tensor:
    base = products / dim + 1
    return base * base * base
