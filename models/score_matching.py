r"""Fitting a score to data: the Fisher divergence and four ways to have it without the data's score.

All are values for each sample, `[batch]`, whose mean over the data is

.. math:: J = E \tfrac12 |s(x) - \nabla \log p(x)|^2

but for a constant that does not depend on s. A score s is any function from x `[batch, ...]` to a
tensor like x in which samples do not interact: `Energy.score`, or `lambda x: model.score(x, t)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
ProbeDistribution = Literal["rademacher", "gaussian"]


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * x.flatten(1).square().sum(1)


def explicit(score: Score, x: Tensor, true_score: Tensor) -> Tensor:
    """1/2 |s(x) - grad log p(x)|^2, the Fisher divergence where the data's score is known.

    Hyvärinen (2005), eq. 2.

    Args:
        score: s.
        x: draws of p, `[batch, ...]`.
        true_score: grad log p at `x`, shaped like `x`.
    """
    return _half_square(score(x) - true_score)


def implicit(score: Score, x: Tensor) -> Tensor:
    """tr grad s(x) + 1/2 |s(x)|^2, Hyvärinen (2005), theorem 1: J less 1/2 E |grad log p|^2.

    The trace is exact, at one backward pass for each component of x: for small dimensions.
    It needs p(x) s(x) to vanish at infinity.

    Args:
        score: s, differentiable in x.
        x: draws of p, `[batch, ...]`.
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score(x)
        flat = s.flatten(1)
        trace = torch.zeros_like(flat[:, 0])
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), x, create_graph=graph, retain_graph=True)
            trace = trace + row.flatten(1)[:, i]
    return trace + _half_square(s)


def sliced(
    score: Score,
    x: Tensor,
    probes: int = 1,
    distribution: ProbeDistribution = "rademacher",
    variance_reduction: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""v . grad s(x) v + 1/2 |s(x)|^2, averaged over random directions v with E v v^T = I.

    Song et al. (2019), SSM-VR: `implicit` in expectation, at one backward pass for each probe.
    1/2 |s|^2 is 1/2 E (v . s)^2 taken exactly; without variance reduction it is
    1/2 (v . s)^2, their SSM. Rademacher probes (v_i = +-1) are exact where grad s is diagonal.

    Args:
        score: s, differentiable in x.
        x: draws of p, `[batch, ...]`.
        probes: directions for each sample.
        distribution: of v.
        variance_reduction: take |s|^2 exactly.
        generator: of the probes.

    Raises:
        ValueError: if `probes` < 1 or the distribution is none of the two.
    """
    if probes < 1:
        raise ValueError(f"probes: expected at least 1, got {probes}")
    if distribution not in get_args(ProbeDistribution):
        raise ValueError(
            f"distribution: expected one of {', '.join(get_args(ProbeDistribution))}, got {distribution!r}"
        )
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score(x)
        total = torch.zeros_like(x.flatten(1)[:, 0])
        for _ in range(probes):
            v = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            if distribution == "rademacher":
                v = torch.where(v < 0, -1.0, 1.0).to(x.dtype)
            along = (v * s).flatten(1).sum(1)
            (slope,) = torch.autograd.grad(along.sum(), x, create_graph=graph, retain_graph=True)
            total = total + (v * slope).flatten(1).sum(1)
            if not variance_reduction:
                total = total + 0.5 * along.square()
    return total / probes + (_half_square(s) if variance_reduction else 0.0)


def denoising(score: Score, x0: Tensor, noise: Tensor, sigma: Tensor | float, alpha: Tensor | float = 1.0) -> Tensor:
    """1/2 |s(alpha x_0 + sigma eps) + eps/sigma|^2, denoising score matching: Vincent (2011).

    `explicit` at the noised density, plus a constant. For a score of many noise levels at once use
    `models.loss.DenoisingLoss`, which weights them; this is the one-level loss of an energy.

    Args:
        score: s of the noised density.
        x0: data, `[batch, ...]`.
        noise: eps, like `x0`.
        sigma, alpha: noise level and scale, numbers or tensors that broadcast against `x0`.
    """
    return _half_square(score(alpha * x0 + sigma * noise) + noise / sigma)


def target(
    score: Score, x0: Tensor, clean_score: Tensor, noise: Tensor, sigma: Tensor | float, alpha: Tensor | float = 1.0
) -> Tensor:
    """1/2 |s(alpha x_0 + sigma eps) - grad log p_0(x_0)/alpha|^2, where grad log p_0 is known.

    De Bortoli et al. (2024), target score matching: grad log p_t(x) = E[grad log p_0(x_0) | x_t = x]/alpha,
    so this too is `explicit` at the noised density plus a constant, one that stays bounded as sigma
    falls to 0, where that of `denoising` grows like dim/sigma^2.

    Args:
        score: s of the noised density.
        x0: draws of p_0, `[batch, ...]`.
        clean_score: grad log p_0 at `x0`.
        noise: eps, like `x0`.
        sigma, alpha: noise level and scale, numbers or tensors that broadcast against `x0`.
    """
    return _half_square(score(alpha * x0 + sigma * noise) - clean_score / alpha)
