"""What Markov chains learn in warm-up, each chain for itself: its step size and its whitening."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Whitening = Literal["none", "diagonal", "dense"]


class DualAveraging:
    r"""Step sizes driven to where a noisy signal g(h), which falls as h rises, is zero on average.

    .. math:: \bar g_t = (1 - \tfrac{1}{t + t_0}) \bar g_{t-1} + \tfrac{g_t}{t + t_0}, \quad
        \log h_t = \mu + \tfrac{\sqrt t}{\gamma} \bar g_t, \quad
        \log \bar h_t = t^{-\kappa} \log h_t + (1 - t^{-\kappa}) \log \bar h_{t-1}

    Nesterov (2009); Hoffman & Gelman (2014), section 3.2, whose constants gamma = 0.05, t_0 = 10 and
    kappa = 0.75 these are.

    Args:
        step: step sizes to begin with, `[chains, 1]`; their logarithm is mu.
    """

    def __init__(self, step: Tensor) -> None:
        self.step = step
        self.average = step.clone()
        self._centre = step.log()
        self._signal = torch.zeros_like(step)
        self._t = 0

    def __call__(self, signal: Tensor) -> None:
        """Take one signal g `[chains]`, positive where the step may grow."""
        self._t += 1
        t = self._t
        self._signal += (signal.unsqueeze(-1) - self._signal) / (t + 10)
        log_step = self._centre + t**0.5 / 0.05 * self._signal
        self.step = log_step.exp()
        self.average = torch.lerp(self.average.log(), log_step, t**-0.75).exp()


class Moments:
    """Running covariances of positions and of scores (Welford 1962), and the whitening they make.

    L L^T is the symmetric positive X with X Cov(score) X = Cov(x). For a Gaussian Cov(score) = P C P
    whatever covariance C the chain has seen so far, P being the precision, so that X = P^-1 exactly, however
    short or slow the chain: the scores know the curvature. Seyboldt et al. (2026) derive it as
    the minimum of a Fisher divergence.

    Args:
        like: positions `[chains, d]`, for shape, device and dtype.
        kind: "diagonal" or "dense"; a matrix is estimated from 2 d draws on, a diagonal before.
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
        """L, `[chains, d]` for a diagonal, `[chains, d, d]` lower triangular for a matrix."""
        tiny = torch.finfo(self._mean.dtype).tiny
        variance = self._spread.diagonal(dim1=-2, dim2=-1) if self.dense else self._spread
        x, score = variance.clamp(min=tiny)
        scale = (x.log() - score.log()).mul(0.25).exp()
        if not self.dense or self.count < 2 * scale.shape[-1]:
            return scale
        # In coordinates of unit scale, where a trifle of the identity keeps both matrices regular.
        cov_x = self._regular(self._spread[0] / scale.unsqueeze(-1) / scale.unsqueeze(-2))
        cov_s = self._regular(self._spread[1] * scale.unsqueeze(-1) * scale.unsqueeze(-2))
        half, inverse = self._roots(cov_s)
        mean = inverse @ self._roots(half @ cov_x @ half)[0] @ inverse
        return scale.unsqueeze(-1) * torch.linalg.cholesky(0.5 * (mean + mean.mT))

    def _regular(self, covariance: Tensor) -> Tensor:
        covariance = covariance / self.count
        size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        trifle = torch.finfo(covariance.dtype).eps ** 0.5
        return covariance + trifle * size * torch.eye(covariance.shape[-1]).to(covariance)

    @staticmethod
    def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The symmetric square root and its inverse."""
        values, axes = torch.linalg.eigh(matrix)
        root = torch.maximum(values, 1e-12 * values[..., -1:]).sqrt().unsqueeze(-2)
        return (axes * root) @ axes.mT, (axes / root) @ axes.mT


def windows(warmup: int) -> list[int]:
    """The steps, counted from 1, at which the whitening is learnt anew: windows that double from 25.

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
