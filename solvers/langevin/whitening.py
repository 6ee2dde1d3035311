"""Whitened coordinates y, with x = L y: how L acts, and how a chain learns it from its positions and scores.

A preconditioner C = L L^T is a change of coordinates and nothing else, so each sampler is written once, in y. There
the score is L^T grad log p.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Whitening = Literal["none", "diagonal", "dense"]
"""What is learnt in warm-up: no preconditioner, a diagonal one, or a full matrix."""


def whiten(root: Tensor, v: Tensor) -> Tensor:
    """L v for v `[chains, d]`. A `root` of shape `[1 or chains, d]` is a diagonal L, `[1 or chains, d, d]` a matrix."""
    return root * v if root.ndim == 2 else (root @ v.unsqueeze(-1)).squeeze(-1)


def whiten_score(root: Tensor, s: Tensor) -> Tensor:
    """L^T s for s `[chains, d]`, with L as in `whiten`."""
    return root * s if root.ndim == 2 else (root.mT @ s.unsqueeze(-1)).squeeze(-1)


class Moments:
    """Running covariances of positions and of scores (Welford 1962), and the whitening that they give.

    L L^T is the positive definite matrix X with X Cov(score) X = Cov(x). Seyboldt et al. (2026) derive it as the
    minimum of a Fisher divergence. The scores know the curvature: for a Gaussian with precision P, a chain that has
    seen the covariance C so far has Cov(score) = P C P. Then X = P^-1 exactly, however short or slow the chain.

    Args:
        like: positions `[chains, d]`, which give the shape, device and dtype.
        kind: "diagonal" or "dense". A matrix is estimated from 2 d draws on, and a diagonal before that.
    """

    def __init__(self, like: Tensor, kind: Whitening) -> None:
        n, d = like.shape
        self.dense = kind == "dense"
        self.count = 0
        self._mean = like.new_zeros(2, n, d)
        self._spread = like.new_zeros(2, n, d, d) if self.dense else like.new_zeros(2, n, d)

    def __call__(self, x: Tensor, score: Tensor) -> None:
        """Take in one position and score, each `[chains, d]`."""
        self.count += 1
        value = torch.stack((x, score))
        before = value - self._mean
        self._mean += before / self.count
        after = value - self._mean
        self._spread += before.unsqueeze(-1) * after.unsqueeze(-2) if self.dense else before * after

    def root(self) -> Tensor:
        """L: `[chains, d]` for a diagonal, or a lower triangular matrix `[chains, d, d]`."""
        tiny = torch.finfo(self._mean.dtype).tiny
        variance = self._spread.diagonal(dim1=-2, dim2=-1) if self.dense else self._spread
        x, score = variance.clamp(min=tiny)
        scale = (x.log() - score.log()).mul(0.25).exp()
        if not self.dense or self.count < 2 * scale.shape[-1]:
            return scale
        # In coordinates of unit scale a small multiple of the identity keeps both matrices invertible.
        cov_x = self._regular(self._spread[0] / scale.unsqueeze(-1) / scale.unsqueeze(-2))
        cov_s = self._regular(self._spread[1] * scale.unsqueeze(-1) * scale.unsqueeze(-2))
        half, inverse = self._roots(cov_s)
        mean = inverse @ self._roots(half @ cov_x @ half)[0] @ inverse
        return scale.unsqueeze(-1) * torch.linalg.cholesky(0.5 * (mean + mean.mT))

    def _regular(self, covariance: Tensor) -> Tensor:
        covariance = covariance / self.count
        size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        small = torch.finfo(covariance.dtype).eps ** 0.5
        return covariance + small * size * torch.eye(covariance.shape[-1]).to(covariance)

    @staticmethod
    def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The symmetric square root and its inverse."""
        values, axes = torch.linalg.eigh(matrix)
        root = torch.maximum(values, 1e-12 * values[..., -1:]).sqrt().unsqueeze(-2)
        return (axes * root) @ axes.mT, (axes / root) @ axes.mT


def windows(warmup: int) -> list[int]:
    """The steps, counted from 1, at which the whitening is learnt anew: the ends of windows that double from 25 steps.

    The last quarter of the warm-up is left to the step size alone.
    """
    ends, length, end = [], 25, 25
    while end <= 0.75 * warmup:
        ends.append(end)
        length *= 2
        end += length
    if ends and ends[-1] < 0.75 * warmup:
        ends[-1] = int(0.75 * warmup)
    return ends
