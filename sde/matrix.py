"""Matrices that act on axis 1 of a state, and the triangular factors of covariances."""

from __future__ import annotations

import torch
from torch import Tensor


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """The product M x along axis 1 of x.

    Args:
        matrix: M, `[d, m]`, or `[batch, d, m]` with one matrix for each sample.
        x: `[batch, m, ...]`.

    Returns:
        M x, `[batch, d, ...]`.

    Raises:
        ValueError: if axis 1 of x does not have m entries.
    """
    if x.ndim < 2 or x.shape[1] != matrix.shape[-1]:
        raise ValueError(f"x: expected a state [batch, {matrix.shape[-1]}, ...], got shape {list(x.shape)}")
    columns = x.unsqueeze(2).flatten(2)  # also of an empty batch
    return (matrix.to(x, non_blocking=True) @ columns).reshape(x.shape[0], matrix.shape[-2], *x.shape[2:])


def factor(covariance: Tensor, definite: bool = False) -> Tensor:
    """The lower triangular F with F F^T = C and no negative entry on its diagonal, for semi-definite C `[..., d, d]`.

    F is Cholesky's factor of the correlation matrix, scaled back. Entries of very different size, such as a
    position's variance ~ t^3 beside a velocity's ~ t, keep their digits in this way, because the method's error is
    that of the scaled matrix (Higham 2002, chapter 10). Singular matrices are factored by their eigenvalues.

    Args:
        covariance: C.
        definite: whether C is known to be positive definite. The test for singular matrices, which waits for the
            device, is then left out.
    """
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    correlation = inverse.unsqueeze(-1) * covariance * inverse.unsqueeze(-2)
    root, info = torch.linalg.cholesky_ex(correlation)
    if not definite and bool((info > 0).any()):
        values, axes = torch.linalg.eigh(correlation)
        upper = torch.linalg.qr((axes * values.clamp(min=0).sqrt().unsqueeze(-2)).mT).R
        sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
        root = torch.where((info > 0)[..., None, None], (sign.unsqueeze(-1) * upper).mT, root)
    return scale.unsqueeze(-1) * root
