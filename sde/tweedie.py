"""Tweedie's formula: score, denoiser, noise, velocity and v are five forms of one function."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice
from backdrift.sde.gaussian import GaussianSDE, value_and_derivative
from backdrift.sde.process import Time, as_time, wide
from backdrift.sde.tensor_checks import extremes, require_shape, require_state, require_times

Kind = Literal["denoised", "score", "noise", "velocity", "v"]
"""The five forms. A network may be trained to predict any of them."""


def affine(sde: GaussianSDE, t: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """The coefficients (a, b) with which a quantity is a x + b D, for the state x and the denoiser D:

    - denoised: D = E[x_0 | x_t];
    - noise: eps = (x - alpha D)/sigma = E[eps | x_t];
    - score: s = (alpha D - x)/sigma^2 = grad log p_t(x), Robbins (1956), Efron (2011). McAllester's (2023) slide says
      "ln P_t(z) is the score function", but it uses the gradient, as we do;
    - velocity: v = f x - g^2/2 s, the drift of the probability-flow ODE, Song et al. (2021), eq. 13. It is also
      E[alpha' x_0 + sigma' eps | x_t], which networks of flow matching predict (Lipman et al. 2023);
    - v: alpha eps - sigma D, the v-prediction of Salimans & Ho (2022), appendix D.

    Args:
        sde: the process.
        t: times, of any shape, which is also the shape of the coefficients.
        kind: which quantity.

    Raises:
        ValueError: if `kind` is none of the five.
    """
    require_choice("kind", kind, get_args(Kind))
    if kind == "denoised":
        return torch.zeros_like(t), torch.ones_like(t)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    if kind == "noise":
        return 1 / sigma, -alpha / sigma
    if kind == "score":
        return -1 / sigma.square(), alpha / sigma.square()
    if kind == "v":
        return alpha / sigma, -(alpha.square() + sigma.square()) / sigma
    half = 0.5 * (sde.g(t) / sigma).square()
    return sde.f(t) + half, -half * alpha


def tweedie(value: Tensor, x: Tensor, t: Time, sde: GaussianSDE, given: Kind, wanted: Kind) -> Tensor:
    """Turn one of score, denoiser, noise, velocity and v at (x, t) into another.

    Args:
        value: the given quantity, shaped like `x`.
        x: the state x_t, `[batch, ...]`.
        t: a scalar, or one time per sample, `[batch]`.
        sde: the process that x_t comes from.
        given: what `value` is: "denoised", "score", "noise", "velocity" or "v".
        wanted: what to return.

    Returns:
        The wanted quantity, shaped like `x`.

    Raises:
        ValueError: if `given` or `wanted` is none of the five, `value` does not have the shape of `x`, `t` is outside
            [0, T] or neither a scalar nor one time per sample, or sigma(t) = 0 and more than the denoiser is wanted.
            There the denoiser is x/alpha, and says nothing about the score.
    """
    require_choice("given", given, get_args(Kind))
    require_choice("wanted", wanted, get_args(Kind))
    if given == wanted:
        require_state(x)
        require_times(t, sde.T)
        return value
    t = as_time(t, x, sde.T)
    require_shape("value", value, x)
    denoised = value if given == "denoised" else _denoised(value, x, t, sde, given)
    if wanted == "denoised":
        return denoised
    least = extremes(sde.sigma(t))
    if least is not None and least[0] == 0:
        raise ValueError(f"t: expected a time at which sigma is positive, since {given} gives no {wanted} at sigma = 0")
    a, b = affine(sde, t, wanted)
    return a * x + b * denoised


def _denoised(value: Tensor, x: Tensor, t: Tensor, sde: GaussianSDE, given: Kind) -> Tensor:
    """The denoiser, in forms that are x/alpha where sigma = 0; see `affine` for the symbols."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    if given == "noise":
        return (x - sigma * value) / alpha
    if given == "score":
        return (x + sigma.square() * value) / alpha
    if given == "v":
        return (alpha * x - sigma * value) / (alpha.square() + sigma.square())
    u = wide(t)
    if sde.start == sde.T:
        a, b = (part.to(x.dtype) for part in affine(sde, u, given))
        return torch.where(sigma == 0, x / alpha, (value - a * x) / b)
    # From velocity = alpha' D + sigma' (x - alpha D)/sigma. This form is finite where alpha = 0, as it may be at T.
    (alpha, d_alpha), (sigma, d_sigma) = (value_and_derivative(part, u) for part in (sde.alpha, sde.sigma))
    total = sigma * d_alpha - alpha * d_sigma
    known, weight = torch.where(sigma == 0, 1 / alpha, -d_sigma / total), torch.where(sigma == 0, 0.0, sigma / total)
    return known.to(x.dtype) * x + weight.to(x.dtype) * value
