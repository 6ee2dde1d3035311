"""Tweedie's formula: score, denoiser, noise and velocity are one function in four coordinates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from backdrift.sde.gaussian import GaussianSDE
from backdrift.sde.process import Time, as_time

Kind = Literal["denoised", "score", "noise", "velocity"]


def affine(sde: GaussianSDE, t: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """The coefficients (a, b) with which a quantity is a x + b D of the state and the denoiser D:

    - denoised: D = E[x_0 | x_t];
    - noise: eps = (x - alpha D)/sigma = E[eps | x_t];
    - score: s = (alpha D - x)/sigma^2 = grad log p_t(x), Robbins (1956), Efron (2011); McAllester's
      (2023) slide has "ln P_t(z) is the score function", but uses its gradient, as here;
    - velocity: v = f x - g^2/2 s, the drift of the probability-flow ODE, Song et al. (2021), eq. 13.

    Args:
        sde: the process.
        t: times, of any shape; the coefficients have that shape.
        kind: which quantity.

    Raises:
        ValueError: if `kind` is none of the four.
    """
    if kind == "denoised":
        return torch.zeros_like(t), torch.ones_like(t)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    if kind == "noise":
        return 1 / sigma, -alpha / sigma
    if kind == "score":
        return -1 / sigma.square(), alpha / sigma.square()
    if kind == "velocity":
        half = 0.5 * (sde.g(t) / sigma).square()
        return sde.f(t) + half, -half * alpha
    raise ValueError(f"kind: expected one of {', '.join(get_args(Kind))}, got {kind!r}")


def tweedie(value: Tensor, x: Tensor, t: Time, sde: GaussianSDE, given: Kind, wanted: Kind) -> Tensor:
    """Turn one of score, denoiser, noise and velocity at (x, t) into another.

    Args:
        value: the given quantity, shaped like `x`.
        x: the state x_t, `[batch, ...]`.
        t: scalar or one time per sample.
        sde: the process x_t comes from.
        given: what `value` is: "denoised", "score", "noise" or "velocity".
        wanted: what to return.

    Returns:
        The wanted quantity, shaped like `x`.

    Raises:
        ValueError: if `given` or `wanted` is none of the four, or `t` fits no sample.
    """
    if given == wanted:
        return value
    t = as_time(t, x)
    a, b = affine(sde, t, given)
    denoised = (value - a * x) / b
    a, b = affine(sde, t, wanted)
    return a * x + b * denoised


class Model(ABC):
    """Anything that denoises: has `sde` and `denoise(x, t)`; the rest is Tweedie's formula.

    Networks, closed-form densities and wrapped functions are all of this kind. A solver asks no
    more than these two, so any object that has them will do, of this class or not.
    """

    sde: GaussianSDE

    @abstractmethod
    def denoise(self, x: Tensor, t: Time) -> Tensor:
        """D(x, t) = E[x_0 | x_t = x], shaped like `x` `[batch, ...]`; t scalar or `[batch]`."""

    def score(self, x: Tensor, t: Time) -> Tensor:
        """grad log p_t(x) = (alpha D - x)/sigma^2."""
        return tweedie(self.denoise(x, t), x, t, self.sde, "denoised", "score")

    def noise(self, x: Tensor, t: Time) -> Tensor:
        """E[eps | x_t = x] = (x - alpha D)/sigma."""
        return tweedie(self.denoise(x, t), x, t, self.sde, "denoised", "noise")

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        """dx/dt along the probability flow, f x - g^2/2 score."""
        return tweedie(self.denoise(x, t), x, t, self.sde, "denoised", "velocity")


class FunctionModel(Model):
    """A plain function `(x, t) -> tensor like x` as a model.

    Args:
        function: called with x `[batch, ...]` and t (scalar or `[batch]`).
        sde: the process that its x_t comes from.
        predicts: what it returns: "denoised", "score", "noise" or "velocity".

    Raises:
        ValueError: if `predicts` is none of the four.
    """

    def __init__(
        self, function: Callable[[Tensor, Time], Tensor], sde: GaussianSDE, predicts: Kind = "denoised"
    ) -> None:
        if predicts not in get_args(Kind):
            raise ValueError(f"predicts: expected one of {', '.join(get_args(Kind))}, got {predicts!r}")
        self.function, self.sde, self.predicts = function, sde, predicts

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        return tweedie(self.function(x, t), x, t, self.sde, self.predicts, "denoised")
