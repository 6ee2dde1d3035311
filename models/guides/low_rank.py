"""A few axes of a covariance that is known by its products alone, and one variance for all other directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def low_rank(product: Callable[[Tensor], Tensor], probes: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest axes of a symmetric matrix V that k probes find, their variances, and the mean of the others.

    The probes and the fresh directions are multiplied by V, made orthonormal, and V is diagonalised among them: one
    step of subspace iteration (Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.3). With the axes of a nearby
    matrix as probes, a few steps find those of V. The mean of the other variances is the trace that the fresh
    directions estimate, outside the axes (Hutchinson 1990).

    Args:
        product: V times each of n directions, from `[batch, d, n]` to the same shape.
        probes: `[batch, d, k]`.
        fresh: random directions, `[batch, d, f]`, so that axes which the probes do not see are found too.

    Returns:
        Axes `[batch, d, k]`, their variances `[batch, k]`, and the variance of the rest `[batch]`. None is below 0.
    """
    k = probes.shape[2]
    images = product(torch.cat([probes, fresh], 2))
    basis = torch.linalg.qr(images)[0]
    pushed = product(basis)
    within = basis.mT @ pushed
    values, turn = torch.linalg.eigh(0.5 * (within + within.mT))
    turn = turn[:, :, -k:]
    axes, along = basis @ turn, pushed @ turn
    inside = axes.mT @ fresh
    outside = fresh - axes @ inside
    # V (1 - Q Q^T) fresh takes no product more: V fresh and V Q are there.
    share = (outside * (images[:, :, k:] - along @ inside)).sum((1, 2))
    square = outside.square().sum((1, 2)).clamp(min=torch.finfo(fresh.dtype).tiny)
    rest = (share / square).clamp(min=0)
    return axes, values[:, -k:].clamp(min=rest.unsqueeze(1)), rest
