"""The continuous evidence lower bound."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE, Prior, as_time
from backdrift.solvers.density.arguments import gaussian_flow, require_batch
from backdrift.solvers.density.denoising_error import denoise_at
from backdrift.solvers.density.monte_carlo import MonteCarlo, Sampling, stratified_integral
from backdrift.solvers.model import ModelLike, prior_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


def elbo(
    model: ModelLike,
    x: Tensor,
    *,
    eps: float | None = None,
    data_std: float | None = None,
    **sampling: Unpack[Sampling],
) -> MonteCarlo:
    r"""A lower bound on log p_eps(x) of each sample: that of the reverse SDE of the model's score S.

    Time is w = (sigma/alpha)^2. From y = x/alpha at w_eps, the state at w is y + delta e with delta^2 = w - w_eps, and

    .. math:: \log p(y) \ge E \log \pi(y + \delta_T e) - \tfrac12 \int E[|S|^2 + 2 S \cdot e / \delta] \, dw

    (Song, Durkan, Murray & Ermon 2021, theorem 3, in its denoising form; Huang et al. 2021). For the true score it is
    an equality. It bounds the same density that `log_likelihood` finds.

    Draws are even in log w (the importance density of their section 5.1, and Kingma et al. 2021). They come in pairs
    e and -e, which keeps the variance finite as delta goes to 0. The same bound of N(0, d^2 I), whose value is known,
    is subtracted at the same draws.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        x: `[batch, ...]`, taken as states at time eps.
        eps: end time at the data; the process's own by default.
        data_std: d; the model's own by default, or else 1.
        sampling: strata, draws in each, seed and index of the first sample, see `Sampling`.

    Raises:
        ValueError: if an argument is out of range, or the process is not Gaussian.
        TypeError: if the model is not one, or returns something unlike x.
    """
    require_batch(x)
    path = gaussian_flow(model, data_std, eps)
    sde, dim, d2 = path.sde, x[0].numel(), path.data_std**2
    start, end = math.exp(2 * path.first), math.exp(2 * path.last)
    y = x / float(sde.alpha(path.eps))

    def gap(u: Tensor, noise: Tensor) -> Tensor:
        """w (|S_N|^2 + 2 S_N e/delta - |S|^2 - 2 S e/delta), with S_N the score of the normal density."""
        w = (2 * u).exp()
        delta, square = as_time((w - start).clamp(min=0).sqrt(), x), as_time(w, x)
        total = torch.zeros_like(w, dtype=x.dtype)
        for e in (noise, -noise):
            y_w = y + delta * e
            score, normal = (denoise_at(model, y_w, u) - y_w) / square, -y_w / (square + d2)
            total = total + ((normal - score) * (normal + score + 2 * e / delta)).flatten(1).sum(1)
        return 0.5 * w.to(x.dtype) * total

    with torch.no_grad():
        found = stratified_integral(gap, x, path.first, path.last, **sampling, evaluations=2)
    norm = y.flatten(1).square().sum(1)
    spread = norm + dim * (end - start)  # E|y_T|^2

    def log_normal(square: Tensor, variance: float) -> Tensor:
        return -0.5 * (square / variance + dim * math.log(2 * math.pi * variance))

    known = log_normal(norm, d2 + start) + _expected_log_prior(model, y, end - start) - log_normal(spread, d2 + end)
    return replace(found, value=known + found.value - dim * math.log(float(sde.alpha(path.eps))))


def _expected_log_prior(model: ModelLike, y: Tensor, variance: float) -> Tensor:
    """E log pi(y + delta e), `[batch]`, where pi is the prior's density of y = x/alpha_T and delta^2 = `variance`."""
    sde = cast(GaussianSDE, model.sde)
    prior, alpha = cast(Prior, prior_of(model)), float(sde.alpha(sde.start))
    std = torch.as_tensor(prior.std, dtype=y.dtype, device=y.device).expand(y.shape[1:]) / alpha
    mean = torch.as_tensor(prior.mean, dtype=y.dtype, device=y.device) / alpha
    square = ((y - mean).square() + variance) / std.square()
    return -0.5 * (square + (2 * math.pi * std.square()).log()).flatten(1).sum(1)
