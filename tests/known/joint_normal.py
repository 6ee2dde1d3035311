"""A joint normal density of samples a and conditions b, whose conditional densities are closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = torch.tensor([0.5, -1.0, 5000.0, -3.0], dtype=torch.float64)
"""Of (a_1, a_2, b_1, b_2). The numbers of b have other units than those of a."""

FACTOR = torch.tensor(
    [[0.5, 0.0, 0.8, -0.3], [0.2, 0.4, 0.0, 0.6], [0.0, 0.0, 120.0, 0.0], [0.0, 0.0, 0.004, 0.008]],
    dtype=torch.float64,
)
"""The joint vector is MEAN + FACTOR eps with eps ~ N(0, I)."""

COVARIANCE = FACTOR @ FACTOR.T


def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples a `[n, 2]` and their conditions b `[n, 2]`, in float64."""
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    joint = MEAN + noise @ FACTOR.T
    return joint[:, :2], joint[:, 2:]


def conditional(b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[2]` and covariance `[2, 2]` of p(a | b) for one b `[2]`; a NaN in it is not known."""
    known = [2 + i for i in range(2) if not bool(b[i].isnan())]
    if not known:
        return MEAN[:2], COVARIANCE[:2, :2]
    gain = COVARIANCE[:2, known] @ torch.linalg.inv(COVARIANCE[known][:, known])
    given = torch.stack([b[i - 2] for i in known]).double()
    return MEAN[:2] + gain @ (given - MEAN[known]), COVARIANCE[:2, :2] - gain @ COVARIANCE[known, :2]
