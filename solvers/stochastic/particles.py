"""Weighted samples of a posterior, and its evidence, by twisted sequential Monte Carlo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer, require_number
from backdrift.sde.value_types import Count, NonNegativeCount, OneOf, Range, is_integer
from backdrift.solvers.confidence import student
from backdrift.solvers.model import data_std_of, place_of, prior_of, require_model, select
from backdrift.solvers.noise import ACCEPT, PRIOR, STEPS, Noise
from backdrift.solvers.stochastic.low_rank_step import LowRankStep
from backdrift.solvers.stochastic.particle_steps import FullStep, IsotropicStep, Step, Twists, kept
from backdrift.solvers.stochastic.rejuvenation import Rejuvenation
from backdrift.solvers.tables.grid import Grid, time_grid

KERNELS = ("isotropic", "low_rank", "full")
"""What `particles` takes as the covariance of its chain's steps."""


@dataclass(frozen=True)
class Particles:
    """Weighted samples of posteriors, one for each observation, with their evidence.

    Attributes:
        x: `[observations, runs * particles, ...]`.
        log_weights: normalised over all particles of an observation, `[observations, runs * particles]`.
        log_evidence: log p(y) of the chain in nats, `[observations]`: the logarithm of the mean over the runs, each of
            which has p(y) as its expectation.
        standard_error: of `log_evidence` over the runs, nats, `[observations]`.
        effective_sample_size: 1/sum of squared weights, `[observations]`.
        discretisation: how much `log_evidence` changed from half the steps to all of them, nats, `[observations]`; nan
            if it was not asked for.
        nfe: evaluations of the guide for a particle.
        runs: independent runs.
        seed: of the draws.
    """

    x: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    discretisation: Tensor
    nfe: int
    runs: int
    seed: int

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of a confidence interval for each log-evidence, by Student's t over the runs, plus the
        discretisation where it was measured: a chain of first order is still as far from the limit of many steps as its
        evidence changed from half the steps, and one of second order a third of that.

        Raises:
            ValueError: if `level` is not between 0 and 1.
        """
        degrees = torch.full_like(self.standard_error, self.runs - 1)
        width = student(level, degrees) * self.standard_error + self.discretisation.abs().nan_to_num(0.0)
        return self.log_evidence - width, self.log_evidence + width

    def draw(self, n: int, seed: int = 0) -> Tensor:
        """`n` unweighted samples of each posterior, `[observations, n, ...]`, by systematic resampling."""
        require_integer("n", n, 1)
        normal = Noise(seed, (len(self.x), 1), stream=ACCEPT, dtype=torch.float64)()
        chosen = _systematic(self.log_weights.exp(), normal, n)
        return torch.stack([x[index] for x, index in zip(self.x, chosen, strict=True)])


@torch.no_grad()
def particles(
    guide: Twists,
    shape: tuple[int, ...],
    *,
    observations: int = 1,
    particles: Annotated[int, Range(least=2)] = 128,
    runs: Annotated[int, Range(least=2)] = 8,
    steps: Count = 50,
    grid: Grid = "karras",
    eps: float | None = None,
    threshold: Annotated[float, Range(least=0, most=1)] = 0.5,
    kernel: Annotated[str, OneOf(KERNELS)] = "isotropic",
    rank: Count = 16,
    moves: NonNegativeCount = 0,
    measure_discretisation: bool = False,
    chunk: Count | None = None,
    seed: int = 0,
    first: int = 0,
) -> Particles:
    r"""Twisted sequential Monte Carlo (Wu, Trippe, Naesseth, Blei & Cunningham 2023, algorithm 1).

    Ancestral steps of the unguided model, p(x_s | x_t) = N(mu(x_t, D), v), are proposed with the guided denoiser D_y,
    and weighted by

    .. math:: w = \frac{p(x_s | x_t)}{N(x_s; \mu(x_t, D_y), v)} \, \frac{p(y | x_s)}{p(y | x_t)}

    with the guide's log p(y | x_t). When the effective sample size falls below `threshold` times the particles, these
    are resampled systematically (Carpenter, Clifford & Fearnhead 1999). The mean weight is an unbiased estimate of
    p(y) under the chain whose last link is N(D, V) at eps, whatever the guide. As particles and steps grow, the
    weighted samples and the evidence become exact. A guide that is exact needs few.

    With kernel="isotropic" the variances v are the best ones that depend on the time alone, see `kernel_variances`.
    With kernel="full" a step has the covariance of x_s given x_t, v I + b^2 V, and its proposal is the posterior of
    that step given y. For normal data of any covariance this chain is exact with few steps, and all weights are equal.
    For mixtures it needs fewer steps and particles. With kernel="low_rank" V has `rank` axes of its own for each
    particle, the largest, and one variance for all other directions. It is for pictures, where "full" is not possible.

    Each run of each observation has its own particles and random numbers, so that an observation gives the same alone
    and among others.

    Cost: (steps + 1) evaluations of `guide.twist` for each particle, moves * steps more with moves, and steps
    evaluations of the unguided model for each of `PILOTS` states. With kernel="full" it is as many evaluations of
    `guide.joint`, which take d products with the Jacobian for samples of d components, in place of m; memory grows as
    d^2 and time as d^3. With kernel="low_rank" it is as many of `guide.low_rank`, which take 2 (rank + 4) products, one
    decomposition of A, and memory for rank * d numbers a particle. Neither has pilots.

    Main arguments:
        guide: a model conditioned on a measurement, with `twist(x, t)`. Its measurement may hold one value for all, or
            one for each observation.
        shape: of one sample.
        observations: how many measurements the guide holds; if it holds one for all, how many times it is answered.
        particles: in each run.
        runs: independent runs, at least 2; with 8 or more their spread is a fair error.
        steps: of the chain.
        seed: of the draws.

    Other arguments:
        grid: name or times of the grid, see `solvers.tables.grid`.
        eps: end time; the process's own by default.
        kernel: "isotropic", "low_rank" or "full", the covariance of the chain's steps. "low_rank" and "full" need a
            guide that knows V, such as `models.MMPS`.
        rank: axes of V for each particle with kernel="low_rank", fewer than the components of a sample.
        threshold: share of the particles; 0 never resamples, 1 does so at every step.
        moves: Metropolis steps that move each particle after a step of the chain, given its ancestor. They part the
            copies that resampling made, and leave the evidence unbiased.
        measure_discretisation: whether to run a chain of half the steps as well, which costs half as much again, for
            the error that the steps make in the evidence.
        chunk: particles that the guide is asked for at once, None for all. The products with the Jacobian of a network
            take memory for each component of y and each of these particles. The result is the same to rounding.
        first: index of the first observation, where these are a part of more.

    Returns:
        Samples of x_0, their weights, and the evidence with its error.

    Raises:
        ValueError: if an argument is out of range, the guide holds other than so many measurements, or they are of
            samples with another shape; with kernel="low_rank", if the noise is 0 along some direction.
            A network in training mode with dropout is refused as well, since its values are random.
        TypeError: if the guide has no `twist`, or not what the kernel needs.
    """
    if not hasattr(guide, "twist"):
        raise TypeError(f"guide: expected a model with twist(x, t), such as models.MMPS, got {type(guide).__name__}")
    require_model(guide)
    for name, value, least in (("observations", observations, 1), ("particles", particles, 2), ("runs", runs, 2)):
        require_integer(name, value, least)
    require_integer("steps", steps, 2 if measure_discretisation else 1)
    require_integer("moves", moves, 0)
    if chunk is not None:
        require_integer("chunk", chunk, 1)
    require_number("threshold", threshold, least=0, most=1)
    if kernel not in KERNELS:
        raise ValueError(f"kernel: expected one of {', '.join(KERNELS)}, got {kernel!r}")
    asked = {"isotropic": "twist", "low_rank": "low_rank", "full": "joint"}[kernel]
    if not hasattr(guide, asked):
        raise TypeError(f"guide: kernel={kernel!r} expects a model with {asked}, got {type(guide).__name__}")
    require_integer("rank", rank, 1)
    if not isinstance(shape, (tuple, list)) or not all(is_integer(size) and size > 0 for size in shape):
        raise ValueError(f"shape: expected the sizes of one sample, such as (3, 32, 32), got {shape!r}")
    if kernel == "low_rank" and rank >= math.prod(shape):
        raise ValueError(
            f"rank: expected fewer than the {math.prod(shape)} components of a sample, got {rank}; kernel='full' takes "
            "all axes"
        )
    _require_fit(guide, shape, observations)
    sde = guide.sde
    times = time_grid(grid, sde, steps, sde.eps if eps is None else eps, data_std_of(guide))
    chain = _Chain(
        guide, tuple(shape), observations, runs, particles, threshold, kernel, rank, moves, seed, first, chunk
    )
    x, log_weights, log_means = chain.run(times)
    each = log_means.reshape(observations, runs)
    evidence = each.logsumexp(1) - math.log(runs)
    ratio = (each - evidence.unsqueeze(1)).exp()
    change = torch.full_like(evidence, math.nan)
    if measure_discretisation:
        halved = time_grid(grid, sde, steps // 2, float(times[-1]), data_std_of(guide))
        change = evidence - chain.run(halved)[2].reshape(observations, runs).logsumexp(1) + math.log(runs)
    log_weights = (log_weights.reshape(observations, runs, -1) + each.unsqueeze(2)).flatten(1).log_softmax(1)
    return Particles(
        x=x.reshape(observations, runs * particles, *shape),
        log_weights=log_weights,
        log_evidence=evidence,
        standard_error=ratio.std(1) / math.sqrt(runs),
        effective_sample_size=1 / (2 * log_weights).logsumexp(1).exp(),
        discretisation=change,
        nfe=sum(k + 1 + moves * k for k in ((steps, steps // 2) if measure_discretisation else (steps,))),
        runs=runs,
        seed=seed,
    )


def _require_fit(guide: Twists, shape: tuple[int, ...], observations: int) -> None:
    """Raise `ValueError` unless a guide's measurement, where it has one, is for these observations and samples.

    Otherwise all measurements but the first ones would be left out without a word.
    """
    seen: Any = getattr(guide, "measurement", None)
    of = getattr(getattr(seen, "operator", seen), "shape" if hasattr(seen, "operator") else "sample_shape", None)
    if of is not None and tuple(of) != tuple(shape):
        raise ValueError(f"shape: expected {tuple(of)}, as the guide's measurement has it, got {tuple(shape)}")
    if getattr(seen, "each", False) and len(seen.value) not in (1, observations):
        held = len(seen.value)
        raise ValueError(f"observations: expected {held}, as many as the guide has measurements, got {observations}")


class _Chain:
    """The particles of all runs of all observations, which advance together."""

    def __init__(
        self,
        guide: Twists,
        shape: tuple[int, ...],
        observations: int,
        runs: int,
        particles: int,
        threshold: float,
        kernel: str,
        rank: int,
        moves: int,
        seed: int,
        first: int,
        chunk: int | None,
    ) -> None:
        self.groups, self.particles, self.threshold = observations * runs, particles, threshold
        self.kernel, self.rank, self.moves, self.chunk = kernel, rank, moves, chunk
        self.shape, self.seed, self.first = shape, seed, first * runs
        self.owners = torch.arange(observations).repeat_interleave(runs * particles)
        self.guide: Twists = select(guide, self.owners)
        self.device, self.dtype = place_of(guide)

    def run(self, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples `[groups * particles, ...]`, log-weights that sum to 1 in each group `[groups, particles]`, and the
        logarithm of each group's mean weight `[groups]`, where a group is one run of one observation."""
        draw = Noise(
            self.seed,
            (self.groups * self.particles, *self.shape),
            first=self.first * self.particles,
            stream=PRIOR,
            dtype=self.dtype,
            device=self.device,
        )
        kick = draw.sibling(tuple(draw.shape), STEPS)
        resample = Noise(self.seed, (self.groups, 1), first=self.first, stream=ACCEPT, dtype=torch.float64)
        x = prior_of(self.guide).from_noise(draw())
        step = self._step(times)
        at = step.look(x, times[0])
        log_w = step.log_twist(at).reshape(self.groups, self.particles)
        log_mean = log_w.new_zeros(self.groups)
        rejuvenation = Rejuvenation(step, self.moves, draw)
        for t, s in pairwise(times):
            log_w, log_mean, keep = self._resampled(log_w, log_mean, resample())
            if keep is not None:
                x, at = x[keep], kept(at, keep)
                rejuvenation.keep(keep)
            x, at = rejuvenation(x, at)
            z = step.draws(at, kick)
            new_x, new, change = step(x, at, t, s, z)
            rejuvenation.remember(x, at, t, s, z, change)
            x, at = new_x, new
            log_w = log_w + change.reshape(self.groups, self.particles)
        x, at = rejuvenation(x, at)
        total = log_w.logsumexp(1)
        return step.guided(at), log_w - total.unsqueeze(1), log_mean + total - math.log(self.particles)

    def _step(self, times: Tensor) -> Step:
        if self.kernel == "full":
            return FullStep(self.guide, self.chunk)
        if self.kernel == "low_rank":
            return LowRankStep(self.guide, self.shape, self.rank, self.chunk)
        return IsotropicStep(self.guide, self.shape, times, self.chunk, self.owners)

    def _resampled(self, log_w: Tensor, log_mean: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weights, means and the particles to go on with, after groups with few effective particles are resampled."""
        total = log_w.logsumexp(1)
        weights = (log_w - total.unsqueeze(1)).exp()
        few = 1 / weights.square().sum(1) < self.threshold * self.particles
        if not bool(few.any()):
            return log_w, log_mean, None
        chosen = _systematic(weights, normal, self.particles)
        same = torch.arange(self.particles, device=chosen.device).expand_as(chosen)
        chosen = torch.where(few.unsqueeze(1), chosen, same)
        keep = chosen + self.particles * torch.arange(self.groups, device=chosen.device).unsqueeze(1)
        log_mean = torch.where(few, log_mean + total - math.log(self.particles), log_mean)
        return torch.where(few.unsqueeze(1), torch.zeros_like(log_w), log_w), log_mean, keep.flatten()


def _systematic(weights: Tensor, normal: Tensor, n: int) -> Tensor:
    """The indices of `n` draws in proportion to the weights of each group `[groups, particles]`, `[groups, n]`.

    One uniform number for each group, that of a `normal` one `[groups, 1]`, sets all of its draws (Carpenter, Clifford
    & Fearnhead 1999).
    """
    uniform = torch.special.ndtr(normal).to(weights)
    places = (torch.arange(n).to(weights) + uniform) / n
    return torch.searchsorted(weights.cumsum(1), places).clamp(max=weights.shape[1] - 1)
