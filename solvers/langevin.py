r"""Langevin dynamics: one step of each sampler, for many chains at once.

The steps are written in whitened coordinates y, x = L y, in which the score is u = L^T grad log p:
a preconditioner C = L L^T is a change of coordinates and nothing else, so each sampler is stated
once. `solvers.mcmc.mcmc` runs them, adapts step sizes and L, and keeps the draws.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from solvers.target import Evaluate


class State(NamedTuple):
    """Where the chains are.

    Attributes:
        x: positions, `[chains, d]`.
        score: grad log p at x, `[chains, d]`.
        log_prob: log p(x) + const in nats, `[chains]`, or None where only a score is known.
        velocity: in whitened coordinates, `[chains, d]`; None for a sampler without.
    """

    x: Tensor
    score: Tensor
    log_prob: Tensor | None
    velocity: Tensor | None = None


def choose(accept: Tensor, new: State, old: State) -> State:
    """`new` where `accept` `[chains]`, `old` elsewhere."""

    def pick(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.where(accept.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return State(*(pick(a, b) for a, b in zip(new, old, strict=True)))  # type: ignore[arg-type]


def whiten(root: Tensor, v: Tensor) -> Tensor:
    """L v for v `[chains, d]`; L `[1 or chains, d]` means a diagonal, `[1 or chains, d, d]` a matrix."""
    return root * v if root.ndim == 2 else (root @ v.unsqueeze(-1)).squeeze(-1)


def whiten_score(root: Tensor, s: Tensor) -> Tensor:
    """L^T s, with L as in `whiten`."""
    return root * s if root.ndim == 2 else (root.mT @ s.unsqueeze(-1)).squeeze(-1)


def _square(v: Tensor) -> Tensor:
    return v.square().sum(-1)


@dataclass(frozen=True)
class Sampler(ABC):
    """One step of a Markov chain, and what its step size is adapted to.

    Args:
        step: the step size h of every chain, for good. Without one it starts from a guess and is
            adapted in warm-up, for each chain by itself.
        goal: what the step size is adapted to: the mean acceptance probability of an adjusted
            sampler; of an unadjusted one the mean square of a step's energy error over the
            dimension, E[r^2]/d, r as in `propose`.

    Raises:
        ValueError: if `step` or `goal` is not positive, or an acceptance is not below 1.
    """

    step: float | None = None
    goal: float = 0.5

    adjusted: ClassVar[bool]
    temperatures: ClassVar[Sequence[float]] = (1.0,)

    def __post_init__(self) -> None:
        if self.step is not None and not self.step > 0:
            raise ValueError(f"step: expected a positive number, got {self.step!r}")
        if not self.goal > 0 or (self.adjusted and not self.goal < 1):
            wanted = "a rate in (0, 1)" if self.adjusted else "a number > 0"
            raise ValueError(f"goal: expected {wanted}, got {self.goal!r}")

    @abstractmethod
    def first_step(self, dim: int) -> float:
        """A step size for a density of unit scale in `dim` dimensions, to begin with."""

    def start(self, x: Tensor, evaluate: Evaluate, noise: Tensor) -> State:
        """The state at `x` `[chains, d]`; `noise` is standard normal, `[chains, d]`."""
        log_prob, score = evaluate(x)
        return State(x, score, log_prob)

    @abstractmethod
    def propose(self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: Evaluate) -> tuple[State, Tensor]:
        """One step, at one evaluation of the density.

        Args:
            state: where the chains are.
            h: step sizes, `[chains, 1]`.
            root: L, see `whiten`.
            noise: standard normal, `[chains, d]`.
            evaluate: log-density and score.

        Returns:
            The new state, and r `[chains]`, the logarithm of the Metropolis-Hastings ratio: minus
            the step's error in energy. Without a log-density its difference is taken from the
            scores by the trapezoidal rule, (s + s')/2 . (x' - x), whose error is of third order.
        """

    def rejected(self, state: State) -> State:
        """Where a chain goes that does not take the proposed step."""
        return state

    def exchange(self, state: State, noise: Tensor, turn: int) -> tuple[State, Tensor | None]:
        """What chains of one replica set do to each other after a step: nothing, but see tempering."""
        return state, None


@dataclass(frozen=True)
class ULA(Sampler):
    r"""The unadjusted Langevin algorithm,

    .. math:: y' = y + h u(y) + \sqrt{2 h} z

    (Parisi 1981; Roberts & Tweedie 1996). The lectures' x + eta/2 score + sqrt(eta) eps has
    h = eta/2 (Isachenko 2023). In a Gaussian direction of variance s^2 it is stationary at
    s^2/(1 - h/(2 s^2)), for h < 2 s^2, so the relative bias is b = h/(2 s^2) to first order, and
    E[r^2] = (h/s^2)^3/2 = 4 b^3: the default goal, 5e-4, holds an isotropic Gaussian to b = 5%, and
    any direction of any Gaussian to 5% times the cube root of d.
    """

    goal: float = 5e-4
    adjusted: ClassVar[bool] = False

    def first_step(self, dim: int) -> float:
        return 0.5 * dim ** (-1 / 3)

    def propose(self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: Evaluate) -> tuple[State, Tensor]:
        u = whiten_score(root, state.score)
        move = h * u + (2 * h).sqrt() * noise
        x = state.x + whiten(root, move)
        log_prob, score = evaluate(x)
        u_new = whiten_score(root, score)
        # log q(y | y') - log q(y' | y), the quadratics multiplied out: no difference of large numbers.
        backward = -0.5 * ((u + u_new) * move).sum(-1) - 0.25 * (h * (u_new - u) * (u_new + u)).sum(-1)
        ratio = _rise(state, log_prob, score, x) + backward
        return State(x, score, log_prob), ratio


@dataclass(frozen=True)
class MALA(ULA):
    """The Metropolis-adjusted Langevin algorithm: `ULA` with the acceptance test, exact at any step.

    Besag (1994), Roberts & Tweedie (1996). The acceptance 0.574 is optimal in high dimension
    (Roberts & Rosenthal 1998); h then falls like d^(-1/3).
    """

    goal: float = 0.574
    adjusted: ClassVar[bool] = True

    def first_step(self, dim: int) -> float:
        return 1.36 * dim ** (-1 / 3)


@dataclass(frozen=True)
class BAOAB(Sampler):
    r"""Underdamped Langevin dynamics dy = v dt, dv = u dt - gamma v dt + sqrt(2 gamma) dw by the splitting

    .. math:: v \mathrel{+}= \tfrac h2 u,\; y \mathrel{+}= \tfrac h2 v,\;
        v = e^{-\gamma h} v + \sqrt{1 - e^{-2 \gamma h}} z,\; y \mathrel{+}= \tfrac h2 v,\; v \mathrel{+}= \tfrac h2 u

    (Leimkuhler & Matthews 2013). Averages of x have an error of order h^2, and none for a Gaussian
    with h^2 < 4 s^2 in every direction. h is a time here: a step h moves as far as one of h^2/2 in `ULA`.

    Args:
        friction: gamma > 0, per unit time of the whitened dynamics; 2 damps a unit Gaussian critically.
            Less serves means better, more serves variances: on a 31-dimensional logistic posterior 0.7
            does about as well by both.

    Raises:
        ValueError: if `friction` is not positive.
    """

    goal: float = 5e-4
    friction: float = 0.7
    adjusted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.friction > 0:
            raise ValueError(f"friction: expected a positive number, got {self.friction!r}")

    def first_step(self, dim: int) -> float:
        return 0.5 * dim ** (-1 / 4)

    def start(self, x: Tensor, evaluate: Evaluate, noise: Tensor) -> State:
        return super().start(x, evaluate, noise)._replace(velocity=noise)

    def propose(self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: Evaluate) -> tuple[State, Tensor]:
        assert state.velocity is not None
        v = state.velocity
        before = v + 0.5 * h * whiten_score(root, state.score)
        after = (-self.friction * h).exp() * before + (-torch.expm1(-2 * self.friction * h)).sqrt() * noise
        x = state.x + whiten(root, 0.5 * h * (before + after))
        log_prob, score = evaluate(x)
        v_new = after + 0.5 * h * whiten_score(root, score)
        # The O part keeps the Maxwell density; only the energy of the other four parts is in error
        # (Bussi & Parrinello 2007, the effective energy; Sivak et al. 2014, the shadow work).
        kinetic = 0.5 * (_square(v) - _square(before) + _square(after) - _square(v_new))
        return State(x, score, log_prob, v_new), _rise(state, log_prob, score, x) + kinetic


@dataclass(frozen=True)
class AdjustedBAOAB(BAOAB):
    """`BAOAB` with a Metropolis test, exact at any step: a generalised Hamiltonian sampler of one-step paths.

    The splitting is palindromic and its O part reversible, so the path is taken with probability
    min(1, e^r), else the velocity is reversed (Horowitz 1991; Sivak et al. 2014). A reversal undoes
    the headway of many steps, hence the high acceptance aimed at.
    """

    goal: float = 0.9
    adjusted: ClassVar[bool] = True

    def rejected(self, state: State) -> State:
        assert state.velocity is not None
        return state._replace(velocity=-state.velocity)


def _rise(state: State, log_prob: Tensor | None, score: Tensor, x: Tensor) -> Tensor:
    """log p(x) - log p(state.x), by the trapezoidal rule where only scores are known."""
    if log_prob is None or state.log_prob is None:
        return 0.5 * ((state.score + score) * (x - state.x)).sum(-1)
    return log_prob - state.log_prob


def accepted(ratio: Tensor, z: Tensor) -> Tensor:
    """Whether log U < `ratio`, U uniform, made from a standard normal `z`; never where it is NaN."""
    return torch.special.log_ndtr(z) < ratio


def acceptance(ratio: Tensor) -> Tensor:
    """min(1, e^r), and 0 where r is NaN."""
    return torch.nan_to_num(ratio, nan=-math.inf).clamp(max=0).exp()
