r"""Score matching: the Fisher divergence, and four losses that equal it up to a constant without the data's score.

Each loss is a value for each sample, `[batch]`. Its mean over the data is

.. math:: J = E \tfrac12 |s(x) - \nabla \log p(x)|^2

up to a constant that does not depend on s. A score s is any function from x `[batch, ...]` to a tensor like x in which
samples do not interact, such as `Energy.score` or `lambda x: model.score(x, t)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice, require_count
from backdrift.sde.tensor_checks import require_shape, require_state

Score = Callable[[Tensor], Tensor]
"""A function from x `[batch, ...]` to a tensor like x."""

ProbeDistribution = Literal["rademacher", "gaussian"]
"""The distributions of random directions."""


def _half_square(x: Tensor) -> Tensor:
    """1/2 |x|^2 for each sample, `[batch]`."""
    return 0.5 * x.flatten(1).square().sum(1)


def _valued(score: Score, x: Tensor) -> Tensor:
    """s(x), after checking that x is a batch and that s is shaped like x: another shape might broadcast."""
    require_state(x)
    value = score(x)
    require_shape("score", value, x)
    return value


def explicit(score: Score, x: Tensor, true_score: Tensor) -> Tensor:
    """1/2 |s(x) - grad log p(x)|^2, the Fisher divergence where the data's score is known.

    Hyvärinen (2005), eq. 2.

    Args:
        score: s.
        x: draws of p, `[batch, ...]`.
        true_score: grad log p at `x`, shaped like `x`.

    Raises:
        ValueError: if a shape is not that of `x`. All losses here check it.
        TypeError: if `x` is not a floating-point tensor.
    """
    require_shape("true_score", true_score, x)
    return _half_square(_valued(score, x) - true_score)


def implicit(score: Score, x: Tensor) -> Tensor:
    """tr grad s(x) + 1/2 |s(x)|^2, implicit score matching. Its mean is J - 1/2 E |grad log p|^2.

    Hyvärinen (2005), theorem 1, which needs p(x) s(x) to vanish at infinity. The trace is exact and costs one backward
    pass for each component of x, so this is for small dimensions.

    Args:
        score: s, differentiable in x.
        x: draws of p, `[batch, ...]`.
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = _valued(score, x)
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
    r"""v . grad s(x) v + 1/2 |s(x)|^2, sliced score matching, averaged over random directions v with E v v^T = I.

    Song et al. (2019), SSM-VR. Its expectation is that of `implicit`, and it costs one backward pass for each
    direction. With variance reduction 1/2 E (v . s)^2 = 1/2 |s|^2 is taken exactly. Without it, each direction gives
    1/2 (v . s)^2, which is their SSM. Rademacher directions (v_i = +-1) give the exact trace where grad s is diagonal.

    Args:
        score: s, differentiable in x.
        x: draws of p, `[batch, ...]`.
        probes: number of directions for each sample.
        distribution: the distribution of v.
        variance_reduction: whether to take |s|^2 exactly.
        generator: the source of the directions.

    Raises:
        ValueError: if `probes` is not a positive integer, or `distribution` is neither of the two.
    """
    require_count("probes", probes)
    require_choice("distribution", distribution, get_args(ProbeDistribution))
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = _valued(score, x)
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

    Its mean is that of `explicit` at the noised density, plus a constant. This is the loss for an energy at one noise
    level. For a score of many noise levels use `DenoisingLoss`, which weights them.

    Args:
        score: s of the noised density.
        x0: data, `[batch, ...]`.
        noise: eps, shaped like `x0`.
        sigma, alpha: noise level and scale, numbers or tensors that broadcast against `x0`.
    """
    require_shape("noise", noise, x0)
    return _half_square(_valued(score, alpha * x0 + sigma * noise) + noise / sigma)


def target(
    score: Score, x0: Tensor, clean_score: Tensor, noise: Tensor, sigma: Tensor | float, alpha: Tensor | float = 1.0
) -> Tensor:
    """1/2 |s(alpha x_0 + sigma eps) - grad log p_0(x_0)/alpha|^2, target score matching, where grad log p_0 is known.

    De Bortoli et al. (2024). Because grad log p_t(x) = E[grad log p_0(x_0) | x_t = x]/alpha, its mean too is that of
    `explicit` at the noised density, plus a constant. The constant stays bounded as sigma falls to 0, where that of
    `denoising` grows like dim/sigma^2.

    Args:
        score: s of the noised density.
        x0: draws of p_0, `[batch, ...]`.
        clean_score: grad log p_0 at `x0`.
        noise: eps, shaped like `x0`.
        sigma, alpha: noise level and scale, numbers or tensors that broadcast against `x0`.
    """
    require_shape("clean_score", clean_score, x0)
    require_shape("noise", noise, x0)
    return _half_square(_valued(score, alpha * x0 + sigma * noise) - clean_score / alpha)
