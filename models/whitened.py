"""A measurement in the units of its noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from backdrift.models.measurement import Measurement


class Whitened(NamedTuple):
    """A measurement as r = min(m, d) numbers with independent noise N(0, 1), which see directions of x_0 that are
    orthogonal to each other.

    With R = L L^T and L^{-1} A = U S W^T, these numbers are U^T L^{-1} y = S W^T x_0 + N(0, 1).

    Attributes:
        rows: S W^T, `[r, d]`, for flattened samples.
        value: U^T L^{-1} y, `[1 or batch, r]`.
        log_constant: what log p(y) has more than log p(value), in nats, `[1 or batch]`.
    """

    rows: Tensor
    value: Tensor
    log_constant: Tensor


def whitened(measurement: Measurement, like: Tensor) -> Whitened:
    """A measurement in the units of its noise, by d products with A and one singular value decomposition, d m^2 or
    d^2 m operations in float64.

    Args:
        measurement: with noise.
        like: a tensor with the dtype and the device of the result.

    Raises:
        ValueError: if the noise is 0 along some direction.
    """
    m = measurement.size
    covariance = measurement.noise_covariance(torch.zeros((), dtype=torch.float64, device="cpu"))
    root, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        raise ValueError("std: expected positive noise, since exact values have no density")
    matrix = measurement.operator.matrix(torch.float64).cpu()
    left, sizes, right = torch.linalg.svd(torch.linalg.solve_triangular(root, matrix, upper=False), full_matrices=False)
    y = measurement.value.double().cpu().reshape(-1 if measurement.each else 1, m)
    y = torch.linalg.solve_triangular(root, y.mT, upper=False).mT
    value = y @ left
    unseen = (y - value @ left.mT).square().sum(1)  # what A reaches with no x_0
    constant = -0.5 * unseen - root.diagonal().log().sum() - 0.5 * (m - len(sizes)) * math.log(2 * math.pi)
    return Whitened((sizes.unsqueeze(1) * right).to(like), value.to(like), constant.to(like))
