"""One transition of many Markov chains: a proposal, the Metropolis test, and exchanges between replicas."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.langevin.sampler import Sampler, State, accepted, choose
from backdrift.solvers.langevin.target import AnyTarget, LogDensityAndScore, evaluator, select_target
from backdrift.solvers.noise import ACCEPT, Noise


class Transition(NamedTuple):
    """What one step of every chain did.

    Attributes:
        state: where the chains are after it.
        log_ratio: logarithm of the Metropolis-Hastings ratio, `[rows]`, also where no test was made.
        exchanged: 1 for each pair of neighbouring temperatures that exchanged its states, 0 for each that did not, and
            nan for those whose turn it was not, `[chains, replicas - 1]`; None without tempering.
    """

    state: State
    log_ratio: Tensor
    exchanged: Tensor | None


class Kernel:
    """The transition kernel of a sampler, with the random numbers of every chain.

    Rows run over the chains, and for each chain over its replicas at the sampler's temperatures.

    Args:
        sampler: the sampler.
        evaluate: log-density and score of the rows, see `rows_evaluator`.
        x: where the rows start, `[rows, d]`.
        seed: of the random numbers.
        first: number of the first chain.

    Attributes:
        evaluations: of the density, for one row and step.
    """

    def __init__(self, sampler: Sampler, evaluate: LogDensityAndScore, x: Tensor, seed: int, first: int) -> None:
        self.sampler, self.evaluate = sampler, evaluate
        rows, d = x.shape
        self.evaluations = sampler.evaluations(d)
        shape = (rows, d) if self.evaluations == 1 else (rows, self.evaluations, d)
        first_row = first * len(sampler.temperatures)
        self.noise = Noise(seed, shape, first=first_row, dtype=x.dtype, device=x.device)
        # Three numbers for each step: the Metropolis test, the exchange, and the jitter of the step size.
        self.choices = self.noise.sibling((rows, 3), ACCEPT)

    def start(self, x: Tensor) -> State:
        """The state at x `[rows, d]`.

        Raises:
            ValueError: if the sampler needs a log-density and there is none, or a density or score is not finite.
        """
        state = self.sampler.start(x, self.evaluate, self.noise())
        if self.sampler.adjusted and state.log_prob is None:
            raise ValueError("target: the Metropolis test needs log_prob(x); with a score alone use ULA or BAOAB")
        finite = state.score.isfinite().all(-1)
        if state.log_prob is not None:
            finite &= state.log_prob.isfinite()
        if not bool(finite.all()):
            chain = int((~finite).nonzero()[0]) // len(self.sampler.temperatures)
            raise ValueError(f"x0: expected a finite log-density and score, got another at start {chain}")
        return state

    def step(self, state: State, h: Tensor, root: Tensor, number: int, test: bool) -> Transition:
        """One step of every chain.

        Args:
            state: where the chains are.
            h: step sizes, `[rows, 1]`.
            root: L, see `solvers.langevin.whitening.whiten`.
            number: of the step; odd and even pairs of replicas exchange in turn.
            test: whether to make the Metropolis test, and exchanges after it.
        """
        sampler = self.sampler
        if test or sampler.jitter:
            z = self.choices()
        if sampler.jitter:
            h = h * (sampler.jitter * z[:, 2:]).exp()
        new, log_ratio = sampler.propose(state, h, root, self.noise(), self.evaluate)
        if not test:
            return Transition(new, log_ratio, None)
        new = choose(accepted(log_ratio, z[:, 0]), new, sampler.rejected(state))
        new, exchanged = sampler.exchange(new, z[:, 1], number % 2)
        return Transition(new, log_ratio, exchanged)


def rows_evaluator(target: AnyTarget, x0: Tensor, temperatures: Tensor) -> LogDensityAndScore:
    """Log-density and score of p^{1/tau} for flat rows `[rows, d]`: every chain at every temperature.

    Args:
        target: the density.
        x0: where the chains start, `[chains, ...]`.
        temperatures: tau of the replicas of each chain, `[replicas]`.

    Raises:
        ValueError: from `evaluator`; and, when it is called, if the log-density or the score has the wrong shape.
    """
    chains, shape = len(x0), x0.shape[1:]
    if len(temperatures) > 1:
        target = select_target(target, torch.arange(chains, device=x0.device).repeat_interleave(len(temperatures)))
    evaluate, beta = evaluator(target), (1 / temperatures).repeat(chains)

    def flat(x: Tensor) -> tuple[Tensor | None, Tensor]:
        log_prob, score = evaluate(x.reshape(-1, *shape))
        if score.shape != (len(x), *shape):
            raise ValueError(f"target: expected a score of shape {[len(x), *shape]}, got {list(score.shape)}")
        if log_prob is not None and log_prob.shape != x.shape[:1]:
            raise ValueError(f"target: expected one log-density a sample, [{len(x)}], got {list(log_prob.shape)}")
        return None if log_prob is None else beta * log_prob, beta.unsqueeze(-1) * score.flatten(1)

    return flat
