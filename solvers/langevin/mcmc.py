"""Markov chain Monte Carlo: many chains, adapted one by one, whose draws are kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer
from backdrift.solvers.langevin.adaptation import Adaptation
from backdrift.solvers.langevin.chains import Chains
from backdrift.solvers.langevin.kernel import Kernel, Transition, rows_evaluator
from backdrift.solvers.langevin.sampler import Sampler, State, acceptance_probability
from backdrift.solvers.langevin.target import AnyTarget
from backdrift.solvers.langevin.whitening import Whitening, windows


def mcmc(
    target: AnyTarget,
    sampler: Sampler,
    x0: Tensor,
    draws: int,
    *,
    warmup: int = 0,
    thin: int = 1,
    whitening: Whitening | Tensor = "none",
    seed: int = 0,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Chains:
    """Markov chains of `sampler` on `target`.

    Each chain stands alone. It adapts to its own past, its random numbers are those of (seed, chain), and it is the
    same alone as among others (to rounding).

    In warm-up the step size is adapted, unless the sampler was given one. While it is, an unadjusted sampler makes the
    Metropolis test as well, so that a step that is still too long cannot throw a chain away. Its draws are made
    without the test.

    Main arguments:
        target: a density known up to its constant, see `solvers.langevin.target.Target`.
        sampler: `ULA`, `MALA`, `BAOAB`, `AdjustedBAOAB`, `MALT` or `ParallelTempering`.
        x0: where the chains start, `[chains, ...]`. R-hat means something only if they are spread wider than the
            target.
        draws: how many to keep of each chain.
        warmup: steps before the first draw. A step of `MALT` is a trajectory.
        seed: of the random numbers, a non-negative integer.

    Other arguments:
        thin: steps for each draw that is kept.
        whitening: the coordinates y of x = L y in which the sampler moves, that is a preconditioner L L^T. "diagonal"
            or "dense" is learnt in warm-up. A tensor is L itself: the standard deviations `[d]`, or a triangular
            matrix `[d, d]`, d being the size of a sample.
        first: number of the first chain, so that chains can be run in parts.
        on_step: called with the number of each step done, warm-up included.

    Raises:
        ValueError: if an argument is out of range, the target lacks what the sampler needs, or the log-density or the
            score is not finite at a start.
        FloatingPointError: if a chain left the finite numbers, as an unadjusted one does where its step is too long.
    """
    _check(sampler, x0, draws, warmup, thin, whitening)
    temperatures = x0.new_tensor(sampler.temperatures)
    x = x0.detach().flatten(1).repeat_interleave(len(temperatures), 0)
    kernel = Kernel(sampler, rows_evaluator(target, x0, temperatures), x, seed, first)
    adaptation = Adaptation(sampler, x, warmup, whitening)
    with torch.no_grad():
        state = kernel.start(x)
        for i in range(1, warmup + 1):
            test = sampler.adjusted or adaptation.adapts_step
            move = kernel.step(state, adaptation.step, adaptation.root, i, test)
            state = move.state
            adaptation.learn(i, state, move.log_ratio)
            if on_step is not None:
                on_step(i)
        step, root = adaptation.final_step, adaptation.root
        tally, begin = _Tally(state, len(temperatures), draws), time.perf_counter()
        for i in range(1, draws * thin + 1):
            move = kernel.step(state, step, root, i, sampler.adjusted)
            state = move.state
            tally.add(move, keep=i % thin == 0)
            if on_step is not None:
                on_step(warmup + i)
    _check_finite(tally.kept, first)
    return tally.chains(x0.shape, step, root, kernel.evaluations, warmup, seed, time.perf_counter() - begin)


class _Tally:
    """The draws that are kept of the chains, and sums over all their steps.

    Args:
        state: of the rows before the first of these steps.
        replicas: rows of each chain, of which the first, at temperature 1, is kept.
        draws: how many will be kept.
    """

    def __init__(self, state: State, replicas: int, draws: int) -> None:
        x, (rows, d) = state.x, state.x.shape
        self.replicas, self.steps, self.filled = replicas, 0, 0
        self.kept = x.new_empty(draws, rows // replicas, d)
        self.log_prob = None if state.log_prob is None else x.new_empty(draws, rows // replicas)
        self.acceptance, self.square_error = x.new_zeros(rows), x.new_zeros(rows)
        self.exchanged, self.exchanges = x.new_zeros(2, rows // replicas, max(replicas - 1, 1))

    def add(self, move: Transition, keep: bool) -> None:
        """Count a step, and keep its end if asked to."""
        self.steps += 1
        self.acceptance += acceptance_probability(move.log_ratio)
        self.square_error += move.log_ratio.square()
        if move.exchanged is not None:
            self.exchanged += move.exchanged.nan_to_num(0.0)
            self.exchanges += ~move.exchanged.isnan()
        if keep:
            self.kept[self.filled] = move.state.x[:: self.replicas]
            if self.log_prob is not None and move.state.log_prob is not None:
                self.log_prob[self.filled] = move.state.log_prob[:: self.replicas]
            self.filled += 1

    def chains(
        self, shape: torch.Size, step: Tensor, root: Tensor, evaluations: int, warmup: int, seed: int, seconds: float
    ) -> Chains:
        """The result, for starts of the given shape."""
        draws, chains, d = self.kept.shape
        return Chains(
            draws=self.kept.transpose(0, 1).reshape(chains, draws, *shape[1:]),
            log_prob=None if self.log_prob is None else self.log_prob.T,
            acceptance=(self.acceptance / self.steps).reshape(chains, self.replicas),
            energy_error=(self.square_error / self.steps / d).reshape(chains, self.replicas),
            step=step.reshape(chains, self.replicas),
            whitening=root[:: self.replicas],
            exchange=self.exchanged / self.exchanges if self.replicas > 1 else None,
            gradients=self.steps * evaluations * self.replicas,
            warmup_gradients=(warmup * evaluations + 1) * self.replicas,
            seed=seed,
            seconds=seconds,
        )


def _check(sampler: Sampler, x0: Tensor, draws: int, warmup: int, thin: int, whitening: Whitening | Tensor) -> None:
    if not isinstance(sampler, Sampler):
        got = f"the class {sampler.__name__}" if isinstance(sampler, type) else type(sampler).__name__
        raise TypeError(f"sampler: expected a sampler such as solvers.MALA(), got {got}")
    if not isinstance(x0, Tensor) or x0.ndim < 2 or not x0.is_floating_point() or x0.numel() == 0:
        got = f"{x0.dtype} {list(x0.shape)}" if isinstance(x0, Tensor) else type(x0).__name__
        raise ValueError(f"x0: expected floating-point starts [chains, ...], got {got}")
    require_integer("draws", draws, 1)
    require_integer("warmup", warmup, 0)
    require_integer("thin", thin, 1)
    if sampler.step is None and warmup == 0:
        raise ValueError(
            f"warmup: {type(sampler).__name__} without a step needs warm-up steps to adapt it, got 0; give either"
        )
    d = x0[0].numel()
    if isinstance(whitening, Tensor):
        if whitening.shape not in ((d,), (d, d)):
            raise ValueError(f"whitening: expected shape [{d}] or [{d}, {d}], got {list(whitening.shape)}")
    elif whitening not in get_args(Whitening):
        raise ValueError(f"whitening: expected {', '.join(get_args(Whitening))} or a tensor, got {whitening!r}")
    elif whitening != "none" and not windows(warmup):
        raise ValueError(f"warmup: expected at least 34 steps to learn a whitening in, got {warmup}")


def _check_finite(kept: Tensor, first: int) -> None:
    finite = kept.isfinite().all(-1).all(0)
    if not bool(finite.all()):
        chain = first + int((~finite).nonzero()[0])
        raise FloatingPointError(f"chain {chain} left the finite numbers: give the sampler a shorter step")
