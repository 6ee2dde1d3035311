"""Markov chain Monte Carlo: many chains, adapted one by one, their draws kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer
from backdrift.solvers.langevin.adaptation import DualAveraging, Moments, Whitening, windows
from backdrift.solvers.langevin.chains import Chains
from backdrift.solvers.langevin.samplers import Sampler, State, acceptance, accepted, choose
from backdrift.solvers.langevin.target import LogDensityAndScore, evaluator
from backdrift.solvers.noise import ACCEPT, Noise


def mcmc(
    target: Any,
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
    """Run `sampler` on `target`.

    Each chain stands alone: it adapts to its own past, its random numbers are those of (seed, chain),
    and it is the same alone as among others (to rounding).

    In warm-up the step size is adapted to the sampler's goal, unless the sampler was given a step. While
    it is, an unadjusted sampler too makes the acceptance test, so that a step that is still too long
    cannot throw a chain away; its draws are made without.

    Args:
        target: see `solvers.langevin.target.Target`.
        sampler: `ULA`, `MALA`, `BAOAB`, `AdjustedBAOAB`, `MALT` or `ParallelTempering`.
        x0: where the chains start, `[chains, ...]`; spread it wider than the target for R-hat to mean something.
        draws: how many to keep of each chain.
        warmup: steps before the first draw; one of `MALT` is a trajectory.
        thin: steps for each draw kept.
        whitening: the coordinates y of x = L y in which a sampler moves, that is a preconditioner L L^T:
            "diagonal" or "dense", learnt in warm-up; or given, the standard deviations `[d]`, or a
            triangular matrix L `[d, d]`, d being the size of a sample.
        seed: of the random numbers, a non-negative integer.
        first: number of the first chain, so that chains may be run in parts.
        on_step: called with the number of each step done, warm-up included.

    Raises:
        ValueError: for an argument out of range, a target that lacks what the sampler needs, or a
            start where the log-density or score is not finite.
        FloatingPointError: if a chain left the finite numbers, which an unadjusted one does where its step is too long.
    """
    _check(sampler, x0, draws, warmup, thin, whitening)
    taus = x0.new_tensor(sampler.temperatures)
    replicas = len(taus)
    chains, shape = len(x0), x0.shape[1:]
    x = x0.detach().flatten(1).repeat_interleave(replicas, 0)
    rows, d = x.shape
    evaluate = _flat(evaluator(target), shape, (1 / taus).repeat(chains))
    n = sampler.evaluations(d)
    noise = Noise(seed, (rows, d) if n == 1 else (rows, n, d), first=first * replicas, dtype=x.dtype, device=x.device)
    decide = noise.sibling((rows, 3), ACCEPT)

    root, learn = _whitening(whitening, x)
    guess = sampler.first_step(d) if sampler.step is None else sampler.step
    tuning = DualAveraging(x.new_full((rows, 1), guess))
    moments = Moments(x, learn)
    anew = set(windows(warmup)) if learn != "none" else set()
    adapt = sampler.step is None

    with torch.no_grad():
        state = sampler.start(x, evaluate, noise())
        _check_start(state, sampler.adjusted)

        def advance(state: State, h: Tensor, adjust: bool, turn: int) -> tuple[State, Tensor, Tensor | None]:
            if adjust or sampler.jitter:
                z = decide()
            if sampler.jitter:
                h = h * (sampler.jitter * z[:, 2:]).exp()
            new, ratio = sampler.propose(state, h, root, noise(), evaluate)
            if adjust:
                new = choose(accepted(ratio, z[:, 0]), new, sampler.rejected(state))
                new, exchanged = sampler.exchange(new, z[:, 1], turn)
                return new, ratio, exchanged
            return new, ratio, None

        for i in range(1, warmup + 1):
            state, ratio, _ = advance(state, tuning.step, adapt or sampler.adjusted, i % 2)
            if adapt:
                tuning(_signal(sampler, ratio, d))
            if learn != "none":
                moments(state.x, state.score)
                if i in anew:
                    root, moments = moments.root(), Moments(x, learn)
                    tuning = DualAveraging(torch.full_like(tuning.step, sampler.first_step(d) if adapt else guess))
            if on_step is not None:
                on_step(i)
        h = tuning.average

        kept = x.new_empty(draws, chains, d)
        levels = None if state.log_prob is None else x.new_empty(draws, chains)
        rate, error = x.new_zeros(rows), x.new_zeros(rows)
        exchanges = x.new_zeros(2, chains, max(replicas - 1, 1))
        begin = time.perf_counter()
        for i in range(1, draws * thin + 1):
            state, ratio, exchanged = advance(state, h, sampler.adjusted, i % 2)
            rate += acceptance(ratio)
            error += ratio.square()
            if exchanged is not None:
                exchanges += torch.stack((exchanged.nan_to_num(0.0), (~exchanged.isnan()).to(x.dtype)))
            if i % thin == 0:
                kept[i // thin - 1] = state.x[::replicas]
                if levels is not None and state.log_prob is not None:
                    levels[i // thin - 1] = state.log_prob[::replicas]
            if on_step is not None:
                on_step(warmup + i)

    _check_end(kept, first)
    steps = draws * thin
    return Chains(
        draws=kept.transpose(0, 1).reshape(chains, draws, *shape),
        log_prob=None if levels is None else levels.T,
        acceptance=(rate / steps).reshape(chains, replicas),
        energy_error=(error / steps / d).reshape(chains, replicas),
        step=h.reshape(chains, replicas),
        whitening=root[::replicas],
        exchange=exchanges[0] / exchanges[1] if replicas > 1 else None,
        gradients=steps * n * replicas,
        warmup_gradients=(warmup * n + 1) * replicas,
        seed=seed,
        seconds=time.perf_counter() - begin,
    )


def _signal(sampler: Sampler, ratio: Tensor, d: int) -> Tensor:
    """How far the step is from its goal, positive where it may grow, `[chains]`; see `DualAveraging`."""
    if sampler.adjusted:
        return acceptance(ratio) - sampler.goal
    # r^2 is heavy-tailed and grows like h^3 or faster: cut off, and weighted to turn log h about as
    # fast as an acceptance does.
    excess = (ratio.square() / (d * sampler.goal)).nan_to_num(torch.inf).clamp(max=10.0)
    return 0.1 * (1 - excess)


def _flat(evaluate: LogDensityAndScore, shape: torch.Size, beta: Tensor) -> LogDensityAndScore:
    """`evaluate` for flat rows, row i at inverse temperature beta_i, its answers' shapes checked."""

    def flat(x: Tensor) -> tuple[Tensor | None, Tensor]:
        log_prob, score = evaluate(x.reshape(-1, *shape))
        if score.shape != (len(x), *shape):
            raise ValueError(f"target: expected a score of shape {[len(x), *shape]}, got {list(score.shape)}")
        if log_prob is not None and log_prob.shape != x.shape[:1]:
            raise ValueError(f"target: expected one log-density a sample, [{len(x)}], got {list(log_prob.shape)}")
        return None if log_prob is None else beta * log_prob, beta.unsqueeze(-1) * score.flatten(1)

    return flat


def _whitening(whitening: Whitening | Tensor, x: Tensor) -> tuple[Tensor, Whitening]:
    """L to begin with, and what is to be learnt."""
    if not isinstance(whitening, Tensor):
        return torch.ones_like(x), whitening
    return whitening.to(x).unsqueeze(0), "none"


def _check(sampler: Sampler, x0: Tensor, draws: int, warmup: int, thin: int, whitening: Whitening | Tensor) -> None:
    if x0.ndim < 2 or not x0.is_floating_point() or x0.numel() == 0:
        raise ValueError(f"x0: expected floating-point starts [chains, ...], got {x0.dtype} {list(x0.shape)}")
    require_integer("draws", draws, 1)
    require_integer("warmup", warmup, 0)
    require_integer("thin", thin, 1)
    if sampler.step is None and warmup == 0:
        raise ValueError(f"warmup: {type(sampler).__name__} without a step needs one to adapt it; give either")
    d = x0[0].numel()
    if isinstance(whitening, Tensor):
        if whitening.shape not in ((d,), (d, d)):
            raise ValueError(f"whitening: expected shape [{d}] or [{d}, {d}], got {list(whitening.shape)}")
    elif whitening not in get_args(Whitening):
        raise ValueError(f"whitening: expected {', '.join(get_args(Whitening))} or a tensor, got {whitening!r}")
    elif whitening != "none" and not windows(warmup):
        raise ValueError(f"warmup: expected at least 34 steps to learn a whitening in, got {warmup}")


def _check_start(state: State, adjusted: bool) -> None:
    if adjusted and state.log_prob is None:
        raise ValueError("target: the Metropolis test needs log_prob(x); with a score alone use ULA or BAOAB")
    finite = state.score.isfinite().all(-1)
    if state.log_prob is not None:
        finite &= state.log_prob.isfinite()
    if not bool(finite.all()):
        raise ValueError(f"x0: the density or score is not finite at start {int((~finite).nonzero()[0])}")


def _check_end(kept: Tensor, first: int) -> None:
    finite = kept.isfinite().all(-1).all(0)
    if not bool(finite.all()):
        chain = first + int((~finite).nonzero()[0])
        raise FloatingPointError(f"chain {chain} left the finite numbers: give the sampler a shorter step")
