"""Parallel tempering: chains at several temperatures that exchange places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from backdrift.sde.arguments import check_fields
from backdrift.sde.checks import require_integer, require_number
from backdrift.sde.value_types import Filled, Positive
from backdrift.solvers.langevin.overdamped import MALA
from backdrift.solvers.langevin.sampler import Sampler, State, accepted
from backdrift.solvers.langevin.target import LogDensityAndScore


def geometric(hottest: float, replicas: int) -> tuple[float, ...]:
    """Temperatures 1, q, q^2, ..., `hottest`: the ladder for densities whose heat capacity is constant.

    Args:
        hottest: the last temperature, above 1.
        replicas: number of temperatures, at least 2.

    Raises:
        ValueError: if one of them is out of range.
    """
    require_number("hottest", hottest, above=1)
    require_integer("replicas", replicas, 2)
    return tuple(hottest ** (k / (replicas - 1)) for k in range(replicas))


@dataclass(frozen=True)
class ParallelTempering(Sampler):
    r"""Each chain is a ladder of replicas. Replica k is a chain for p^{1/tau_k}, and the draws are those of tau = 1.

    After each step, neighbours exchange their states with probability

    .. math:: \min(1, \exp[(1/\tau_j - 1/\tau_k)(l(x_k) - l(x_j))]), \quad l = \log p + const.

    Even and odd pairs do so in turn, which carries a state up and down the ladder without diffusing (Swendsen & Wang
    1986; Geyer 1991; Okabe et al. 2001; Syed et al. 2022). A step evaluates the density once for each replica. Each
    replica has a step size of its own. Step size, jitter and target acceptance rate are those of `sampler`.

    Args:
        temperatures: tau_0 = 1 < tau_1 < ...; see `geometric`.
        sampler: the step at each temperature, with a Metropolis test.

    Raises:
        ValueError: if the temperatures do not rise from 1, or the sampler has no Metropolis test.
    """

    step: float | None = field(default=None, init=False, repr=False)
    temperatures: Annotated[Sequence[Positive], Filled("a list of 2 or more numbers that rise from 1", least=2)] = (
        geometric(16.0, 6)
    )
    jitter: float = field(default=0.0, init=False, repr=False)
    sampler: Sampler = field(default_factory=MALA)
    adjusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)
        taus = self.temperatures
        if taus[0] != 1 or any(a >= b for a, b in pairwise(taus)):
            raise ValueError(f"temperatures: expected 1 = tau_0 < tau_1 < ..., got {list(taus)}")
        if not self.sampler.adjusted or len(self.sampler.temperatures) > 1:
            raise ValueError(
                "sampler: expected one with a Metropolis test at one temperature, such as MALA, "
                f"got {type(self.sampler).__name__}"
            )
        object.__setattr__(self, "step", self.sampler.step)
        object.__setattr__(self, "jitter", self.sampler.jitter)

    def first_step(self, dim: int) -> float:
        return self.sampler.first_step(dim)

    def adaptation_signal(self, log_ratio: Tensor, dim: int) -> Tensor:
        return self.sampler.adaptation_signal(log_ratio, dim)

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

    def exchange(self, state: State, noise: Tensor, parity: int) -> tuple[State, Tensor]:
        """Exchange replicas 2i + parity and 2i + parity + 1 of each chain.

        Args:
            state: its rows run over chains, then temperatures. Its log-density and score are those of p^{1/tau}, with
                the tau of each row.
            noise: standard normal, `[rows]`.
            parity: 0 or 1.

        Returns:
            The state, and a number for each pair of neighbours, `[chains, replicas - 1]`. It is 1 if they exchanged, 0
            if they did not, and nan if it was not their turn.
        """
        assert state.log_prob is not None
        k = len(self.temperatures)
        tau = state.x.new_tensor(self.temperatures)
        level = state.log_prob.reshape(-1, k) * tau
        low = torch.arange(parity, k - 1, 2, device=tau.device)
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
        exchanged = torch.full((len(level), k - 1), torch.nan, dtype=tau.dtype, device=tau.device)
        exchanged[:, low] = swap.to(tau.dtype)
        return moved, exchanged
