"""The posterior given several independent observations, composed of the posteriors given each of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE, Time
from backdrift.solvers import Noise, decode

ROWS = 8192
"""Evaluations of single posteriors in memory at once."""

SHARE = 0.01
"""The flow ends at noise of this share of the narrowest standard deviation of the composed posterior."""


class ComposedPosterior:
    r"""The denoiser of p(y given x_1, ..., x_n), which is p(y)^(1-n) times the product of p(y given x_i), normalised.

    With the denoisers D_i and covariances S_i of the single posteriors, D_0 and S_0 of the prior, and s = sigma/alpha,

    .. math::
        D = \Lambda^{-1} \left[\sum_i P_i D_i + (1 - n) P_0 D_0\right], \quad P = S^{-1} + s^{-2} I,
        \quad \Lambda = \sum_i P_i + (1 - n) P_0,

    which is the second-order composition of Linhart et al. (2024, GAUSS), written for denoisers. It is exact where all
    of these densities are normal. Scores that are only added (Geffner et al. 2023) lack the weights P and need Langevin
    steps to correct them. Where a posterior is wider than the prior in some direction, as an estimate may be, its
    precision there is set to that of the prior, so that Lambda stays positive.

    Args:
        sde: a Gaussian process.
        denoise_each: takes states `[rows, d]`, the numbers `[rows]` of the observations they are given, and a time to
            D_i, `[rows, d]`.
        means: of the single posteriors, `[n, d]`.
        covariances: S_i, `[n, d, d]`.
        prior: the mean and the covariance of the prior, taken as normal.
    """

    def __init__(
        self,
        sde: GaussianSDE,
        denoise_each: Callable[[Tensor, Tensor, Tensor], Tensor],
        means: Tensor,
        covariances: Tensor,
        prior: tuple[Tensor, Tensor],
    ) -> None:
        self.sde, self.denoise_each = sde, denoise_each
        self.prior_mean, prior_covariance = prior
        self.prior_precision = torch.linalg.inv(prior_covariance)
        # Where the prior's covariance is I, a precision is at least that of the prior if it is at least I.
        root = torch.linalg.cholesky(prior_covariance)
        whitened = torch.linalg.solve_triangular(root, covariances, upper=False)
        whitened = torch.linalg.solve_triangular(root, whitened.transpose(-1, -2), upper=False)
        values, axes = torch.linalg.eigh((whitened + whitened.transpose(-1, -2)) / 2)
        precise = (axes / values.clamp(max=1.0).unsqueeze(-2)) @ axes.transpose(-1, -2)
        back = torch.linalg.inv(root)
        self.precisions = back.T @ precise @ back
        n = len(means)
        self.precision = self.precisions.sum(0) + (1 - n) * self.prior_precision
        weighted = (self.precisions @ means.unsqueeze(-1)).sum(0)[:, 0] + (
            1 - n
        ) * self.prior_precision @ self.prior_mean
        self.mean = torch.linalg.solve(self.precision, weighted)

    @torch.no_grad()
    def denoise(self, x: Tensor, t: Time) -> Tensor:
        """D(x, t), `[batch, d]`, for one time of all samples."""
        t = torch.as_tensor(t, dtype=torch.float64).flatten()[0]
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        n, (batch, d) = len(self.precisions), x.shape
        state, noise = x.double(), (alpha / sigma).square() * torch.eye(d, dtype=torch.float64)
        total = torch.zeros(batch, d, dtype=torch.float64)
        for part in torch.arange(n).split(max(1, ROWS // batch)):
            found = self.denoise_each(state.repeat(len(part), 1), part.repeat_interleave(batch), t)
            total += torch.einsum("nij,nbj->bi", self.precisions[part] + noise, found.reshape(len(part), batch, d))
        spread = torch.linalg.inv(self.prior_precision)
        gain = torch.linalg.solve(spread + (sigma / alpha).square() * torch.eye(d, dtype=torch.float64), spread)
        prior = self.prior_mean + (state / alpha - self.prior_mean) @ gain
        total += (1 - n) * prior @ (self.prior_precision + noise)
        return torch.linalg.solve(self.precision + noise, total.T).T.to(x.dtype)


def composed_draws(model: ComposedPosterior, n: int, seed: int, steps: int) -> Tensor:
    """Draws of y by the probability flow of a composed posterior, `[n, d]`.

    Args:
        model: the composed posterior.
        n: number of draws.
        seed: of the draws.
        steps: of the Runge-Kutta method of order 4.
    """
    covariance = torch.linalg.inv(model.precision)
    start = torch.tensor(model.sde.start, dtype=torch.float64)
    alpha, sigma = model.sde.alpha(start), model.sde.sigma(start)
    root = torch.linalg.cholesky(alpha**2 * covariance + sigma**2 * torch.eye(len(covariance), dtype=torch.float64))
    latent = alpha * model.mean + Noise(seed, (n, len(covariance)), dtype=torch.float64)() @ root.T
    least = SHARE * float(torch.linalg.eigvalsh(covariance)[0].sqrt())
    eps = float(model.sde.t_from_log_snr(-2 * torch.tensor(least, dtype=torch.float64).log()))
    return decode(model, latent, steps=steps, eps=eps, grid="karras") / model.sde.alpha(eps)
