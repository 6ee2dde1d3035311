"""What one step of a Markov chain is: its state, the Metropolis test, and the interface of a sampler.

`solvers.langevin.mcmc.mcmc` runs samplers on many chains at once, adapts step sizes and whitening, and keeps the draws.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Positive, Range
from backdrift.solvers.langevin.target import LogDensityAndScore

Rate = Annotated[float, Range(above=0, below=1)]
"""An acceptance rate."""


class State(NamedTuple):
    """Where the chains are.

    Attributes:
        x: positions, `[chains, d]`.
        score: grad log p at x, `[chains, d]`.
        log_prob: log p(x) + const in nats, `[chains]`, or None where only a score is known.
        velocity: in whitened coordinates, `[chains, d]`, or None for a sampler without a velocity.
    """

    x: Tensor
    score: Tensor
    log_prob: Tensor | None
    velocity: Tensor | None = None


def choose(accept: Tensor, new: State, old: State) -> State:
    """`new` where `accept` `[chains]` is true, and `old` elsewhere."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(accept.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    def pick_known(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else pick(a, b)

    return State(
        pick(new.x, old.x),
        pick(new.score, old.score),
        pick_known(new.log_prob, old.log_prob),
        pick_known(new.velocity, old.velocity),
    )


def accepted(log_ratio: Tensor, z: Tensor) -> Tensor:
    """Whether log U < `log_ratio`, with U uniform, made from a standard normal `z`. False where the ratio is nan."""
    return torch.special.log_ndtr(z) < log_ratio


def acceptance_probability(log_ratio: Tensor) -> Tensor:
    """min(1, e^r), and 0 where r is nan."""
    return torch.nan_to_num(log_ratio, nan=-math.inf).clamp(max=0).exp()


def log_density_change(state: State, log_prob: Tensor | None, score: Tensor, x: Tensor) -> Tensor:
    """log p(x) - log p(state.x), `[chains]`. Where only scores are known, it is taken by the trapezoidal rule."""
    if log_prob is None or state.log_prob is None:
        return 0.5 * ((state.score + score) * (x - state.x)).sum(-1)
    return log_prob - state.log_prob


@dataclass(frozen=True)
class Sampler(ABC):
    """One step of a Markov chain, and what its step size is adapted to.

    Args:
        step: the step size h, fixed for every chain. Without it h starts from a guess and is adapted in warm-up, for
            each chain by itself.
        jitter: the step size is multiplied at each step by a fresh log-normal factor, the exponential of a normal
            number with this standard deviation. The chain is then that of a mixture of kernels, each of which keeps
            the density. Jitter is for densities whose scale changes from place to place, such as a funnel: 1.5 gives
            steps for scales that are a hundred times apart.

    Attributes:
        adjusted: whether it makes a Metropolis test.
        temperatures: of the replicas of each chain; see `ParallelTempering`.

    Raises:
        ValueError: if `step` is not positive or `jitter` is negative.
    """

    step: Positive | None = None
    temperatures: Sequence[float] = field(default=(1.0,), init=False, repr=False)
    jitter: Annotated[float, Range(least=0, most=100)] = field(default=0.0, kw_only=True)

    adjusted: ClassVar[bool]

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def first_step(self, dim: int) -> float:
        """The step size to begin with, for a density of unit scale in `dim` dimensions."""

    @abstractmethod
    def adaptation_signal(self, log_ratio: Tensor, dim: int) -> Tensor:
        """How far the step size is from what it is adapted to, `[chains]`: positive where it may grow.

        Args:
            log_ratio: r of the last step, `[chains]`, see `propose`.
            dim: dimension of the density.
        """

    def evaluations(self, dim: int) -> int:
        """n: how often a step evaluates the density, and how many normal vectors it takes."""
        return 1

    def start(self, x: Tensor, evaluate: LogDensityAndScore, noise: Tensor) -> State:
        """The state at `x` `[chains, d]`. `noise` is standard normal, and shaped as for `propose`."""
        log_prob, score = evaluate(x)
        return State(x, score, log_prob)

    @abstractmethod
    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        """One step of the chain, before the Metropolis test.

        Args:
            state: where the chains are.
            h: step sizes, `[chains, 1]`.
            root: L, see `solvers.langevin.whitening.whiten`.
            noise: standard normal, `[chains, d]`, or `[chains, n, d]` where a step makes n evaluations.
            evaluate: log-density and score.

        Returns:
            The new state, and r `[chains]`, the logarithm of the Metropolis-Hastings ratio. It is minus the energy
            error of the step. Without a log-density, its difference is taken from the scores by the trapezoidal
            rule, (s + s')/2 . (x' - x), whose error is of third order.
        """

    def rejected(self, state: State) -> State:
        """Where a chain goes whose proposal is not accepted. By default it stays."""
        return state

    def exchange(self, state: State, noise: Tensor, parity: int) -> tuple[State, Tensor | None]:
        """What the replicas of a chain do to each other after a step. By default nothing; see `ParallelTempering`."""
        return state, None


@dataclass(frozen=True)
class AdjustedSampler(Sampler):
    """A sampler with a Metropolis test: it keeps the density exactly, whatever the step size.

    Args:
        step, jitter: see `Sampler`.
        target_acceptance_rate: the mean acceptance probability that the step size is adapted to.

    Raises:
        ValueError: as `Sampler`, or if `target_acceptance_rate` is not between 0 and 1.
    """

    target_acceptance_rate: Rate = 0.574
    adjusted: ClassVar[bool] = True

    def adaptation_signal(self, log_ratio: Tensor, dim: int) -> Tensor:
        return acceptance_probability(log_ratio) - self.target_acceptance_rate


@dataclass(frozen=True)
class UnadjustedSampler(Sampler):
    """A sampler without a Metropolis test: its draws have a bias that falls with the step size.

    Args:
        step, jitter: see `Sampler`.
        target_energy_error: the mean square energy error of a step, divided by the dimension, E[r^2]/d, that the step
            size is adapted to. r is that of `propose`.

    Raises:
        ValueError: as `Sampler`, or if `target_energy_error` is not positive.
    """

    target_energy_error: Positive = 5e-4
    adjusted: ClassVar[bool] = False

    def adaptation_signal(self, log_ratio: Tensor, dim: int) -> Tensor:
        # r^2 has heavy tails and grows like h^3 or faster. It is cut off, and weighted so that log h changes about as
        # fast as it does by an acceptance rate.
        excess = (log_ratio.square() / (dim * self.target_energy_error)).nan_to_num(torch.inf).clamp(max=10.0)
        return 0.1 * (1 - excess)
