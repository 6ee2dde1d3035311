"""Parallel tempering: chains at several temperatures that exchange places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from backdrift.solvers.langevin.samplers import MALA, Sampler, State, accepted
from backdrift.solvers.langevin.target import LogDensityAndScore


def geometric(hottest: float, replicas: int) -> tuple[float, ...]:
    """Temperatures 1, q, q^2, ... `hottest`: the ladder for densities of constant heat capacity.

    Raises:
        ValueError: if one of the numbers is not above 1.
    """
    if replicas < 2 or not hottest > 1:
        raise ValueError(f"hottest, replicas: expected numbers above 1, got {hottest!r} and {replicas!r}")
    return tuple(hottest ** (k / (replicas - 1)) for k in range(replicas))


@dataclass(frozen=True)
class ParallelTempering(Sampler):
    r"""Each chain is a ladder of replicas, replica k a chain for p^{1/tau_k}; the draws are those of tau = 1.

    After each step neighbours exchange states with probability

    .. math:: \min(1, \exp[(1/\tau_j - 1/\tau_k)(l(x_k) - l(x_j))]), \quad l = \log p + const,

    even and odd pairs in turn, which carries a state up and down the ladder without diffusing
    (Swendsen & Wang 1986; Geyer 1991; Okabe et al. 2001; Syed et al. 2022). It costs an evaluation for each replica
    and step. Each replica has a step size of its own.

    Args:
        temperatures: tau_0 = 1 < tau_1 < ...; see `geometric`.
        sampler: the step at each temperature, an adjusted one.
        step, goal, jitter: not used; they are those of `sampler`.

    Raises:
        ValueError: if the temperatures do not rise from 1 or the sampler is unadjusted.
    """

    temperatures: Sequence[float] = geometric(16.0, 6)  # type: ignore[misc]
    sampler: Sampler = field(default_factory=MALA)
    adjusted = True

    def __post_init__(self) -> None:
        taus = self.temperatures
        if len(taus) < 2 or taus[0] != 1 or any(a >= b for a, b in pairwise(taus)):
            raise ValueError(f"temperatures: expected 1 = tau_0 < tau_1 < ..., got {list(taus)}")
        if not self.sampler.adjusted:
            raise ValueError("sampler: expected one with a Metropolis test, such as MALA; exchanges rest on it")
        for name in ("step", "goal", "jitter"):
            object.__setattr__(self, name, getattr(self.sampler, name))

    def first_step(self, dim: int) -> float:
        return self.sampler.first_step(dim)

    def evaluations(self, dim: int) -> int:
        return self.sampler.evaluations(dim)

    def start(self, x: Tensor, evaluate: LogDensityAndScore, noise: Tensor) -> State:
        return self.sampler.start(x, evaluate, noise)

    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        return self.sampler.propose(state, h, root, noise, evaluate)

    def rejected(self, state: State) -> State:
        return self.sampler.rejected(state)

    def exchange(self, state: State, noise: Tensor, turn: int) -> tuple[State, Tensor]:
        """Exchange replicas 2i + turn and 2i + turn + 1 of each chain.

        Args:
            state: rows run over chains, then temperatures; its log-density and score are those of
                p^{1/tau}, each of its row.
            noise: standard normal, `[rows]`.
            turn: 0 or 1.

        Returns:
            The state, and whether each pair of neighbours exchanged, `[chains, replicas - 1]`, NaN
            for those whose turn it was not.
        """
        assert state.log_prob is not None
        k = len(self.temperatures)
        tau = state.x.new_tensor(self.temperatures)
        level = state.log_prob.reshape(-1, k) * tau
        low = torch.arange(turn, k - 1, 2, device=tau.device)
        gap = (1 / tau[low + 1] - 1 / tau[low]) * (level[:, low] - level[:, low + 1])
        swap = accepted(gap, noise.reshape(-1, k)[:, low])
        source = torch.arange(k, device=tau.device).repeat(len(level), 1)
        source[:, low] += swap.long()
        source[:, low + 1] -= swap.long()
        rows = (source + k * torch.arange(len(level), device=tau.device).unsqueeze(1)).flatten()
        # A state keeps its place and takes the temperature of its new row.
        scale = (tau[source] / tau).flatten()
        moved = State(
            state.x[rows],
            state.score[rows] * scale.unsqueeze(-1),
            state.log_prob[rows] * scale,
            None if state.velocity is None else state.velocity[rows],
        )
        rate = torch.full((len(level), k - 1), torch.nan, dtype=tau.dtype, device=tau.device)
        rate[:, low] = swap.to(tau.dtype)
        return moved, rate
