"""The normal density of rows in which numbers are missing, and its conditional densities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

ROUNDS = 30
"""Rounds of expectation and maximisation."""


class Split(NamedTuple):
    r"""The normal density of some columns given others, for each row: u_A = mean + L z with z ~ N(0, I).

    Attributes:
        mean: of the targets, 0 elsewhere, `[n, d]`.
        root: L, lower triangular in the order of the columns, the identity on columns that are no targets, `[n, d, d]`.
    """

    mean: Tensor
    root: Tensor

    def whitened(self, u: Tensor, target: Tensor) -> Tensor:
        """z, 0 on columns that are no targets, `[n, d]`."""
        offset = torch.where(target, u - self.mean, 0.0)
        return torch.linalg.solve_triangular(self.root, offset[..., None], upper=False)[..., 0]

    def coloured(self, z: Tensor) -> Tensor:
        """u of the targets for z, `[n, d]`."""
        return self.mean + (self.root @ z[..., None])[..., 0]

    def log_determinant(self) -> Tensor:
        """log|det L| of each row, in nats."""
        return self.root.diagonal(dim1=1, dim2=2).log().sum(1)


def split(offset: Tensor, covariance: Tensor, target: Tensor, given: Tensor) -> Split:
    r"""p(u_A | u_B) of a normal density of mean 0 (Bishop 2006, eq. 2.81 and 2.82), with other A and B in each row.

    Args:
        offset: u, `[n, d]`, of which only the given columns are read.
        covariance: `[d, d]`, positive definite.
        target: which columns are in A, `[n, d]`.
        given: which columns are in B, `[n, d]`. Columns in neither are integrated out.
    """
    one = torch.eye(covariance.shape[0], dtype=covariance.dtype)
    among_given = torch.where(given[:, :, None] & given[:, None, :], covariance, one)
    across = torch.where(target[:, :, None] & given[:, None, :], covariance, 0.0)
    gain = torch.linalg.solve(among_given, across.mT).mT
    mean = (gain @ torch.where(given, offset, 0.0)[..., None])[..., 0]
    among_targets = torch.where(target[:, :, None] & target[:, None, :], covariance - gain @ across.mT, one)
    return Split(mean, torch.linalg.cholesky((among_targets + among_targets.mT) / 2))


def covariance_with_missing(offset: Tensor) -> Tensor:
    """The covariance `[d, d]` of rows of mean 0 `[n, d]`, in which NaN is missing at random.

    It maximises the likelihood of what is known, by expectation and maximisation (Dempster et al. 1977), and is shrunk
    towards a multiple of the identity as Ledoit & Wolf (2004) say for the completed rows.
    """
    known = ~offset.isnan()
    covariance = torch.diag(offset.nan_to_num().square().sum(0) / known.sum(0).clamp(min=1) + 1e-9)
    filled = offset.nan_to_num()
    for _ in range(1 if bool(known.all()) else ROUNDS):
        found = split(filled, covariance, ~known, known)
        filled = torch.where(known, offset, found.mean)
        spread = torch.where((~known)[:, :, None] & (~known)[:, None, :], found.root @ found.root.mT, 0.0)
        covariance = filled.mT @ filled / len(filled) + spread.mean(0)
    share = float(ledoit_wolf_shrinkage(filled.numpy(), assume_centered=True)) if len(filled) > 1 else 0.0
    mean_variance = float(np.trace(covariance.numpy())) / len(covariance)
    return (1 - share) * covariance + (share * mean_variance + 1e-9) * torch.eye(len(covariance), dtype=offset.dtype)
