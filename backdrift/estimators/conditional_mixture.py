"""Mixtures of normal densities of targets, whose weights and means depend on features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import GaussianSDE


class Expert(NamedTuple):
    """A mixture of K normal densities of (x, z), as a density of z given x.

    Attributes:
        log_weights: of the components, `[K]`.
        centres: the means of x, `[K, features]`.
        whitening: W_k with W_k C_k W_k^T = I for the covariances C_k of x, `[K, features, features]`.
        offsets, slopes: a and H, where the mean of z given x is a + H x, `[K, d]` and `[K, d, features]`.
        covariances: of z given x, `[K, d, d]`.
    """

    log_weights: Tensor
    centres: Tensor
    whitening: Tensor
    offsets: Tensor
    slopes: Tensor
    covariances: Tensor

    @classmethod
    def of_joint(cls, joint: GaussianMixture, features: int) -> Expert:
        """The conditional density of the last components given the first `features` (Bishop 2006, eq. 2.81 and 2.82).

        Args:
            joint: a mixture of the rows (x, z).
            features: how many components x has.
        """
        assert joint.axes is not None
        covariances = (joint.axes * joint.variances.unsqueeze(-2)) @ joint.axes.mT
        within, across = covariances[:, :features, :features], covariances[:, features:, :features]
        root = torch.linalg.cholesky(within)
        slopes = torch.cholesky_solve(across.mT, root).mT
        centres = joint.means[:, :features]
        offsets = joint.means[:, features:] - (slopes @ centres[..., None])[..., 0]
        rest = covariances[:, features:, features:] - slopes @ across.mT
        one = torch.eye(features, dtype=root.dtype).expand_as(root)
        whitening = torch.linalg.solve_triangular(root, one, upper=False)
        return cls(joint.log_weights, centres, whitening, offsets, slopes, (rest + rest.mT) / 2)

    @classmethod
    def standard(cls, features: int, d: int) -> Expert:
        """N(0, I), whatever the features are."""
        one = torch.eye(d, dtype=torch.float64)
        zero = torch.zeros(1, d, features, dtype=torch.float64)
        wide = torch.eye(features, dtype=torch.float64)[None]
        return cls(zero.sum((1, 2)), zero.sum(1), wide, zero.sum(2), zero, one[None])

    def mapped(self, matrix: Tensor, slope: Tensor, offset: Tensor) -> Expert:
        """The density of z' = matrix (z - slope x - offset) given x."""
        return self._replace(
            offsets=(self.offsets - offset) @ matrix.T,
            slopes=matrix @ (self.slopes - slope),
            covariances=matrix @ self.covariances @ matrix.T,
        )


class ConditionalMixture:
    r"""The density of z given x that is a weighted mean of `Expert`s,

    .. math:: p(z | x) = \sum_j v_j \sum_k w_{jk}(x)\, N(z; a_{jk} + H_{jk} x, S_{jk}),

    in which each expert's weights w_jk(x) are in proportion to those of its component times its density of x.

    Args:
        experts: the densities.
        weights: v, `[experts]`. They are divided by their sum.
        sde: the process that the times of `given` belong to.
    """

    def __init__(self, experts: Sequence[Expert], weights: Tensor, sde: GaussianSDE | None = None) -> None:
        self.sizes = [len(expert.log_weights) for expert in experts]
        self.log_shares = (weights / weights.sum()).log()
        parts = Expert(*(torch.cat(part) for part in zip(*experts, strict=True)))
        self.parts = parts
        self.components = GaussianMixture(parts.offsets, parts.covariances, sde=sde)

    def given(self, x: Tensor) -> GaussianMixture:
        """The density of z given the features `[n, features]` of each of n samples."""
        p = self.parts
        z = torch.einsum("kij,nkj->nki", p.whitening, x.unsqueeze(1) - p.centres)
        log_det = p.whitening.diagonal(dim1=1, dim2=2).log().sum(1)
        joint = p.log_weights + log_det - 0.5 * z.square().sum(2)
        shares = zip(joint.split(self.sizes, 1), self.log_shares, strict=True)
        log_weights = torch.cat([part.log_softmax(1) + share for part, share in shares], 1)
        return self.components.for_each(p.offsets + torch.einsum("kij,nj->nki", p.slopes, x), log_weights)

    def under(self, sde: GaussianSDE) -> ConditionalMixture:
        """The same density for the times of another process."""
        other = copy.copy(self)
        other.components = self.components.under(sde)
        return other

    def to(self, *args: Any) -> ConditionalMixture:  # whatever torch.Tensor.to takes
        """The same density with its tensors on another device, in another dtype, or both; see `torch.Tensor.to`."""
        other = copy.copy(self)
        other.log_shares, other.components = self.log_shares.to(*args), self.components.to(*args)
        other.parts = Expert(*(part.to(*args) for part in self.parts))
        return other
