"""The Fréchet distance of features (FID), with its bias extrapolated away."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.quality.feature_set import GROUPS, FeatureSet, both

FEWEST = 4
"""Samples for each feature that an extrapolation needs: a half then holds twice as many samples as features."""

HALVES = [((torch.arange(GROUPS) >> bit) & 1).bool() for bit in range(4)]
"""Masks of the groups that cut them into halves, each in another way."""


def frechet_distance(x: Tensor | FeatureSet, y: Tensor | FeatureSet) -> Estimate:
    """The Fréchet distance between normal distributions with the moments of two sets (Heusel et al. 2017, eq. 6):

        F = |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)).

    On features of an Inception network this is FID. From n samples it is too large by a/n + O(1/n^2), however many
    samples the other number is compared with (Chong & Forsyth 2020). The value here is extrapolated to 1/n = 0, as they
    do, for both sets at once and along a line through the distance of all samples and the mean distance of halves:

        F_infinity = 2 F(n) - mean F(n/2).

    It is 0 on average for two sets of one distribution and may be negative. What is left of the bias is of the order
    (dim/n)^2. The standard error is the jackknife's over groups of both sets. It needs about 150 distances, so that
    features in their thousands take minutes.

    Args:
        x: features `[n, ...]`, or a set of them; at least 4 samples for each feature.
        y: features of the same number `[m, ...]`, or a set of them; the reference.

    Returns:
        The distance, in squared units of the features.

    Raises:
        ValueError: if a set holds too few samples, or the sets have different numbers of features.
    """
    x, y = both(x, y, 2 * GROUPS)
    for name, found in (("x", x), ("y", y)):
        if len(found) < FEWEST * found.dim:
            raise ValueError(
                f"{name}: expected at least {FEWEST} samples for each of {found.dim} features, got {len(found)}"
            )
    everything = torch.ones(GROUPS, dtype=torch.bool)
    left_out = []
    for group in range(GROUPS):
        without = everything.clone()
        without[group] = False
        left_out.append(_extrapolated(x, y, without))
    values = torch.tensor(left_out, dtype=torch.float64)
    variance = float((values - values.mean()).square().sum()) * (GROUPS - 1) / GROUPS
    return Estimate(_extrapolated(x, y, everything), math.sqrt(variance))


def frechet_of_moments(mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor) -> float:
    """F of two means `[dim]` and two covariances `[dim, dim]`, which may be singular.

    With C_x = A A^T and C_y = B B^T, tr (C_x C_y)^(1/2) is the sum of the singular values of A^T B, which needs no root
    of a matrix that is not symmetric.
    """
    roots = []
    for covariance in (covariance_x, covariance_y):
        values, vectors = torch.linalg.eigh(covariance)
        roots.append(vectors * values.clamp(min=0).sqrt())
    shared = torch.linalg.svdvals(roots[0].mT @ roots[1]).sum()
    shift = (mean_x - mean_y).square().sum()
    return float(shift + covariance_x.trace() + covariance_y.trace() - 2 * shared)


def _extrapolated(x: FeatureSet, y: FeatureSet, chosen: Tensor) -> float:
    """The distance of the chosen groups, extrapolated to sets without end."""
    whole, n = _distance(x, y, chosen)
    halves = [_distance(x, y, chosen & side) for half in HALVES for side in (half, ~half)]
    mean = sum(value for value, _ in halves) / len(halves)
    growth = sum(n / size for _, size in halves) / len(halves)  # 2, but for groups that are left out
    return (growth * whole - mean) / (growth - 1)


def _distance(x: FeatureSet, y: FeatureSet, groups: Tensor) -> tuple[float, int]:
    (n, *of_x), (_, *of_y) = x.moments(groups), y.moments(groups)
    return frechet_of_moments(*of_x, *of_y), n
