r"""Underdamped Langevin dynamics dy = v dt, dv = u dt - gamma v dt + sqrt(2 gamma) dw.

y is the whitened position, x = L y, and u = L^T grad log p its score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from torch import Tensor

from backdrift.sde.value_types import NonNegative, Positive, Range
from backdrift.solvers.langevin.sampler import (
    AdjustedSampler,
    Rate,
    Sampler,
    State,
    UnadjustedSampler,
    log_density_change,
)
from backdrift.solvers.langevin.target import LogDensityAndScore
from backdrift.solvers.langevin.whitening import whiten, whiten_score


@dataclass(frozen=True)
class _Splitting(Sampler):
    """The step that `BAOAB` and `AdjustedBAOAB` share."""

    friction: Positive = 0.7

    def start(self, x: Tensor, evaluate: LogDensityAndScore, noise: Tensor) -> State:
        return super().start(x, evaluate, noise)._replace(velocity=noise)

    def first_step(self, dim: int) -> float:
        return 0.5 * dim ** (-1 / 4)

    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        # The O part keeps the Maxwell density, so that only the energy of the other four parts is in error (Bussi &
        # Parrinello 2007, the effective energy; Sivak et al. 2014, the shadow work).
        return leapfrog(state, h, root, evaluate, lambda v: refresh(v, self.friction * h, noise))


@dataclass(frozen=True)
class BAOAB(_Splitting, UnadjustedSampler):
    r"""Underdamped Langevin dynamics by the splitting (Leimkuhler & Matthews 2013)

    .. math:: v \mathrel{+}= \tfrac h2 u,\; y \mathrel{+}= \tfrac h2 v,\;
        v = e^{-\gamma h} v + \sqrt{1 - e^{-2 \gamma h}} z,\; y \mathrel{+}= \tfrac h2 v,\; v \mathrel{+}= \tfrac h2 u

    Averages of x have an error of order h^2. They have none for a Gaussian with h^2 < 4 s^2 in every direction. h is
    a time here: a step h moves as far as one of h^2/2 in `ULA`.

    Args:
        step, target_energy_error, jitter: see `UnadjustedSampler`.
        friction: gamma > 0, per unit of time of the whitened dynamics. 2 damps a unit Gaussian critically. Less
            friction is better for means, more is better for variances. On a 31-dimensional logistic posterior 0.7
            does about as well for both.

    Raises:
        ValueError: as `UnadjustedSampler`, or if `friction` is not positive.
    """


@dataclass(frozen=True)
class AdjustedBAOAB(_Splitting, AdjustedSampler):
    """`BAOAB` with a Metropolis test, exact at any step: a generalised Hamiltonian sampler of one-step paths.

    The splitting is palindromic and its O part is reversible. The path is therefore taken with probability
    min(1, e^r), and otherwise the velocity is reversed (Horowitz 1991; Sivak et al. 2014). A reversal undoes the
    progress of many steps, so a high acceptance rate is aimed at.

    Args:
        step, target_acceptance_rate, jitter: see `AdjustedSampler`.
        friction: see `BAOAB`.

    Raises:
        ValueError: as `AdjustedSampler`, or if `friction` is not positive.
    """

    target_acceptance_rate: Rate = 0.9

    def rejected(self, state: State) -> State:
        return state._replace(velocity=-_velocity(state))


@dataclass(frozen=True)
class MALT(AdjustedSampler):
    r"""Metropolis-adjusted Langevin trajectories: n steps of underdamped dynamics from a fresh velocity, then one test.

    .. math:: v = e^{-\gamma h} v + \sqrt{1 - e^{-2 \gamma h}} z \;\text{(at first } v = z),\quad
        v \mathrel{+}= \tfrac h2 u,\; y \mathrel{+}= h v,\; v \mathrel{+}= \tfrac h2 u

    (Riou-Durand & Vogrinc 2022, whose two halves of each refreshment are one here). The trajectory is taken with
    probability min(1, e^r), r being the sum over its leapfrog steps, or not at all. Since the velocity is fresh, there
    is nothing to reverse, as there is in `AdjustedBAOAB`. n = 1 is `MALA` with a step of h^2/2, and friction 0 is
    Hamiltonian Monte Carlo. In a Gaussian direction of frequency w, a trajectory of time T = n h leaves the correlation

    .. math:: \rho = e^{-\gamma T/2} (\cos q T + \tfrac{\gamma}{2 q} \sin q T), \quad q^2 = w^2 - \gamma^2/4,

    so that a unit of time is worth (1 - rho)/((1 + rho) T) draws for the mean and (1 - rho^2)/((1 + rho^2) T) for the
    variance. Take the lesser of the two, and of it the least over all w from 1/1.4 to 1.4, or over a narrower range.
    With the defaults this is within 7% of the most that any T gives at this friction, and within 23% of the most at
    any friction. Less friction and a longer T are better for means and worse for variances: without friction, a T of
    half the period of some w leaves the squares in that direction as they were.

    Args:
        step, target_acceptance_rate, jitter: see `AdjustedSampler`. The rate is that of whole trajectories.
        friction: gamma >= 0, per unit of time of the whitened dynamics.
        length: time T that a trajectory lasts where the step size is that of a unit Gaussian. n follows from it and
            from the dimension, and stays fixed; the step size goes on adapting to the acceptance rate.
        steps: n itself, for targets that need much shorter steps than a Gaussian.

    Raises:
        ValueError: as `AdjustedSampler`, or if `friction` is negative, `length` is not positive or `steps` is below 1.
    """

    target_acceptance_rate: Rate = 0.8
    friction: NonNegative = 0.5
    length: Positive = 2.0
    steps: Annotated[int, Range(least=1, most=100_000)] | None = None

    def first_step(self, dim: int) -> float:
        # On a unit Gaussian r = h^2/8 (|y|^2 - |y'|^2), of standard deviation h^2 sqrt(d)/4 where y is forgotten.
        # This step is accepted with probability 0.8 = 2 Phi(-0.507/2).
        return 1.42 * dim ** (-1 / 4)

    def evaluations(self, dim: int) -> int:
        return self.steps or math.ceil(self.length / (self.step or self.first_step(dim)))

    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        first, *others = noise.reshape(len(noise), -1, noise.shape[-1]).unbind(1)
        state, log_ratio = leapfrog(state._replace(velocity=first), h, root, evaluate)
        for z in others:
            state = state._replace(velocity=refresh(_velocity(state), self.friction * h, z))
            state, r = leapfrog(state, h, root, evaluate)
            log_ratio = log_ratio + r
        return state._replace(velocity=None), log_ratio


def refresh(v: Tensor, damping: Tensor, noise: Tensor) -> Tensor:
    """The velocity after an Ornstein-Uhlenbeck process of unit variance; `damping` is friction times time."""
    return (-damping).exp() * v + (-torch.expm1(-2 * damping)).sqrt() * noise


def leapfrog(
    state: State,
    h: Tensor,
    root: Tensor,
    evaluate: LogDensityAndScore,
    halfway: Callable[[Tensor], Tensor] = lambda v: v,
) -> tuple[State, Tensor]:
    """A step of velocity Verlet, and r, minus the change of energy in it.

    `halfway` is applied to the velocity in the middle of the step. What it changes in the energy does not count in r.
    """
    v = _velocity(state)
    before = v + 0.5 * h * whiten_score(root, state.score)
    after = halfway(before)
    x = state.x + whiten(root, 0.5 * h * (before + after))
    log_prob, score = evaluate(x)
    v_new = after + 0.5 * h * whiten_score(root, score)
    kinetic = 0.5 * (_square(v) - _square(before) + _square(after) - _square(v_new))
    return State(x, score, log_prob, v_new), log_density_change(state, log_prob, score, x) + kinetic


def _square(v: Tensor) -> Tensor:
    return v.square().sum(-1)


def _velocity(state: State) -> Tensor:
    """The velocity of a state that has one."""
    return cast(Tensor, state.velocity)
