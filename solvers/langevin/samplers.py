r"""Langevin dynamics: one step of each sampler, for many chains at once.

The steps are written in whitened coordinates y, x = L y, in which the score is u = L^T grad log p:
a preconditioner C = L L^T is a change of coordinates and nothing else, so each sampler is stated
once. `solvers.langevin.mcmc.mcmc` runs them, adapts step sizes and L, and keeps the draws.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer, require_non_negative, require_positive
from backdrift.solvers.langevin.target import LogDensityAndScore


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
        jitter: standard deviation of the logarithm of a factor that the step size takes, drawn anew at each
            step: the chain of a mixture of kernels, each of which keeps the density. For densities whose
            scale changes from place to place, such as a funnel; 1.5 has steps for scales a hundred apart.

    Raises:
        ValueError: if `step` or `goal` is not positive, an acceptance is not below 1, or `jitter` is negative.
    """

    step: float | None = None
    goal: float = 0.5
    jitter: float = field(default=0.0, kw_only=True)

    adjusted: ClassVar[bool]
    temperatures: ClassVar[Sequence[float]] = (1.0,)

    def __post_init__(self) -> None:
        if self.step is not None:
            require_positive(step=self.step)
        if not self.goal > 0 or (self.adjusted and not self.goal < 1):
            wanted = "a rate in (0, 1)" if self.adjusted else "a number > 0"
            raise ValueError(f"goal: expected {wanted}, got {self.goal!r}")
        require_non_negative(jitter=self.jitter)

    @abstractmethod
    def first_step(self, dim: int) -> float:
        """A step size for a density of unit scale in `dim` dimensions, to begin with."""

    def evaluations(self, dim: int) -> int:
        """n, how often a step evaluates the density, and how many normal vectors it takes."""
        return 1

    def start(self, x: Tensor, evaluate: LogDensityAndScore, noise: Tensor) -> State:
        """The state at `x` `[chains, d]`; `noise` is standard normal, `[chains, d]`."""
        log_prob, score = evaluate(x)
        return State(x, score, log_prob)

    @abstractmethod
    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        """One step of the chain.

        Args:
            state: where the chains are.
            h: step sizes, `[chains, 1]`.
            root: L, see `whiten`.
            noise: standard normal, `[chains, d]`, or `[chains, n, d]` where a step is one of n evaluations.
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

    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
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
        require_positive(friction=self.friction)

    def first_step(self, dim: int) -> float:
        return 0.5 * dim ** (-1 / 4)

    def start(self, x: Tensor, evaluate: LogDensityAndScore, noise: Tensor) -> State:
        return super().start(x, evaluate, noise)._replace(velocity=noise)

    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        # The O part keeps the Maxwell density; only the energy of the other four parts is in error
        # (Bussi & Parrinello 2007, the effective energy; Sivak et al. 2014, the shadow work).
        return _leapfrog(state, h, root, evaluate, lambda v: _refresh(v, self.friction * h, noise))


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


@dataclass(frozen=True)
class MALT(Sampler):
    r"""Metropolis-adjusted Langevin trajectories: n steps of underdamped dynamics from a fresh velocity, one test.

    .. math:: v = e^{-\gamma h} v + \sqrt{1 - e^{-2 \gamma h}} z \;\text{(at first } v = z),\quad
        v \mathrel{+}= \tfrac h2 u,\; y \mathrel{+}= h v,\; v \mathrel{+}= \tfrac h2 u

    (Riou-Durand & Vogrinc 2022, whose two halves of each refreshment are one here). The trajectory is taken with
    probability min(1, e^r), r the sum over its leapfrog steps, or not at all: with a fresh velocity
    there is nothing to reverse, as there is in `AdjustedBAOAB`. n = 1 is `MALA` with a step of h^2/2,
    friction 0 is Hamiltonian Monte Carlo. In a Gaussian direction of frequency w the trajectory of time
    T = n h leaves the correlation

    .. math:: \rho = e^{-\gamma T/2} (\cos q T + \tfrac{\gamma}{2 q} \sin q T), \quad q^2 = w^2 - \gamma^2/4,

    so that a unit of time is worth (1 - rho)/((1 + rho) T) draws for the mean and (1 - rho^2)/((1 + rho^2) T)
    for the variance. The lesser of the two, for the worst w of all from 1/1.4 to 1.4, or of a narrower range,
    is with the defaults within 7% of the most that any T gives at this friction, and within 23% of the most at
    any friction. Less friction and a longer T serve means better, and variances worse: without friction
    a T of half the period of some w leaves that direction's squares as they were.

    Args:
        friction: gamma >= 0, per unit time of the whitened dynamics.
        length: time T that a trajectory is to last, where the step size is that of a unit Gaussian. n follows
            from it, and from the dimension, and stays; the step size goes on to meet the acceptance.
        steps: n itself, for targets that want much shorter steps than a Gaussian.

    Raises:
        ValueError: if `friction` is negative, `length` not positive or `steps` below 1.
    """

    goal: float = 0.8
    friction: float = 0.5
    length: float = 2.0
    steps: int | None = None
    adjusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_non_negative(friction=self.friction)
        require_positive(length=self.length)
        if self.steps is not None:
            require_integer("steps", self.steps, 1)

    def first_step(self, dim: int) -> float:
        # On a unit Gaussian r = h^2/8 (|y|^2 - |y'|^2), of standard deviation h^2 sqrt(d)/4 where y is forgotten:
        # 0.8 = 2 Phi(-0.507/2) accepted.
        return 1.42 * dim ** (-1 / 4)

    def evaluations(self, dim: int) -> int:
        return self.steps or math.ceil(self.length / (self.step or self.first_step(dim)))

    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        first, *others = noise.reshape(len(noise), -1, noise.shape[-1]).unbind(1)
        state, ratio = _leapfrog(state._replace(velocity=first), h, root, evaluate)
        for z in others:
            assert state.velocity is not None
            state = state._replace(velocity=_refresh(state.velocity, self.friction * h, z))
            state, r = _leapfrog(state, h, root, evaluate)
            ratio = ratio + r
        return state._replace(velocity=None), ratio


def _refresh(v: Tensor, damping: Tensor, noise: Tensor) -> Tensor:
    """The velocity after an Ornstein-Uhlenbeck process of unit variance, `damping` being friction times time."""
    return (-damping).exp() * v + (-torch.expm1(-2 * damping)).sqrt() * noise


def _leapfrog(
    state: State, h: Tensor, root: Tensor, evaluate: LogDensityAndScore, turn: Callable[[Tensor], Tensor] = lambda v: v
) -> tuple[State, Tensor]:
    """A step of velocity Verlet, with what `turn` does to the velocity halfway; r of all but that."""
    assert state.velocity is not None
    v = state.velocity
    before = v + 0.5 * h * whiten_score(root, state.score)
    after = turn(before)
    x = state.x + whiten(root, 0.5 * h * (before + after))
    log_prob, score = evaluate(x)
    v_new = after + 0.5 * h * whiten_score(root, score)
    kinetic = 0.5 * (_square(v) - _square(before) + _square(after) - _square(v_new))
    return State(x, score, log_prob, v_new), _rise(state, log_prob, score, x) + kinetic


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
