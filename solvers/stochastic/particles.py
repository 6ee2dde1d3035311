"""Weighted samples of a posterior, and its evidence, by twisted sequential Monte Carlo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.sde.checks import require_integer, require_number
from backdrift.sde.twist import Joint, Twist
from backdrift.sde.value_types import Count, OneOf, Range
from backdrift.solvers.confidence import student
from backdrift.solvers.model import Denoises, data_std_of, place_of, prior_of, select
from backdrift.solvers.noise import ACCEPT, PATH, PRIOR, STEPS, Noise
from backdrift.solvers.tables.grid import Grid, time_grid

KERNELS = ("isotropic", "full")
"""What `particles` takes as the covariance of its chain's steps."""


class Twists(Protocol):
    """A guide: a model of p(x_0 | y) that also gives log p(y | x_t), such as `models.MMPS`."""

    @property
    def sde(self) -> GaussianSDE: ...

    @property
    def model(self) -> Denoises:
        """The model of p(x_0)."""

    def denoise(self, x: Tensor, t: Tensor, /) -> Tensor: ...

    def twist(self, x: Tensor, t: Tensor, /) -> Twist:
        """`denoised`, E[x_0 | x_t]; `guided`, E[x_0 | x_t, y]; and `log_twist`, log p(y | x_t) in nats."""


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
        discretisation: how much `log_evidence` changes when the steps are doubled, nats, `[observations]`; nan if it
            was not asked for.
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
        discretisation where it was measured.

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
    measure_discretisation: bool = False,
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
    For mixtures it needs fewer steps and particles.

    Each run of each observation has its own particles and random numbers, so that an observation gives the same alone
    and among others.

    Cost: (steps + 1) evaluations of `guide.twist` for each particle, and steps evaluations of the unguided model for
    each of `PILOTS` states. With kernel="full" it is (steps + 1) evaluations of `guide.joint`, which take d products
    with the Jacobian for samples of d components, in place of m; memory grows as d^2 and time as d^3. There are no
    pilots.

    Main arguments:
        guide: a model conditioned on a measurement, with `twist(x, t)`. Its measurement may hold one value for all, or
            one for each observation.
        shape: of one sample.
        observations: how many measurements the guide holds, or 1.
        particles: in each run.
        runs: independent runs, at least 2; with 8 or more their spread is a fair error.
        steps: of the chain.
        seed: of the draws.

    Other arguments:
        grid: name or times of the grid, see `solvers.tables.grid`.
        eps: end time; the process's own by default.
        kernel: "isotropic" or "full", the covariance of the chain's steps. "full" needs a guide with `joint(x, t)`.
        threshold: share of the particles; 0 never resamples, 1 does so at every step.
        measure_discretisation: whether to run again with twice the steps, which costs twice as much again.
        first: index of the first observation, where these are a part of more.

    Returns:
        Samples of x_0, their weights, and the evidence with its error.

    Raises:
        ValueError: if an argument is out of range.
        TypeError: if the guide has no `twist`.
    """
    if not hasattr(guide, "twist"):
        raise TypeError(f"guide: expected a model with twist(x, t), such as models.MMPS, got {type(guide).__name__}")
    for name, value, least in (("observations", observations, 1), ("particles", particles, 2), ("runs", runs, 2)):
        require_integer(name, value, least)
    require_integer("steps", steps, 1)
    require_number("threshold", threshold, least=0, most=1)
    if kernel not in KERNELS:
        raise ValueError(f"kernel: expected one of {', '.join(KERNELS)}, got {kernel!r}")
    if kernel == "full" and not hasattr(guide, "joint"):
        raise TypeError(f"guide: kernel='full' expects a model with joint(x, t), got {type(guide).__name__}")
    sde = guide.sde
    times = time_grid(grid, sde, steps, sde.eps if eps is None else eps, data_std_of(guide))
    chain = _Chain(guide, tuple(shape), observations, runs, particles, threshold, kernel, seed, first)
    x, log_weights, log_means = chain.run(times)
    each = log_means.reshape(observations, runs)
    evidence = each.logsumexp(1) - math.log(runs)
    ratio = (each - evidence.unsqueeze(1)).exp()
    finer = torch.full_like(evidence, math.nan)
    if measure_discretisation:
        doubled = time_grid(grid, sde, 2 * steps, float(times[-1]), data_std_of(guide))
        finer = chain.run(doubled)[2].reshape(observations, runs).logsumexp(1) - math.log(runs) - evidence
    log_weights = (log_weights.reshape(observations, runs, -1) + each.unsqueeze(2)).flatten(1).log_softmax(1)
    return Particles(
        x=x.reshape(observations, runs * particles, *shape),
        log_weights=log_weights,
        log_evidence=evidence,
        standard_error=ratio.std(1) / math.sqrt(runs),
        effective_sample_size=1 / (2 * log_weights).logsumexp(1).exp(),
        discretisation=finer,
        nfe=(steps + 1) * (3 if measure_discretisation else 1),
        runs=runs,
        seed=seed,
    )


PILOTS = 256
"""States that `kernel_variances` follows."""


def kernel_variances(model: Denoises, shape: tuple[int, ...], times: Tensor) -> Tensor:
    r"""The variances v of the steps x_t to x_s that fit the reverse process best, `[steps]` in float64,

    .. math:: v = \sigma^2_{s|t} + b^2 \bar V, \qquad \bar V = (\sigma/\alpha)^2 (1 - \sigma^2 E|s(x_t)|^2/d)

    (Bao et al. 2022, theorem 1). sigma_{s|t} is the deviation of x_s given x_t and x_0, b is the weight of x_0 in its
    mean, and V the mean variance of a component of x_0 given x_t. The mean of the squared score is over states that go
    through the chain themselves.

    Args:
        model: the model of p(x_0).
        shape: of one sample.
        times: of the chain, which fall.
    """
    device, dtype = place_of(model)
    noise = Noise(0, (PILOTS, *shape), stream=PATH, dtype=dtype, device=device)
    sde, variances = model.sde, []
    x = prior_of(model).from_noise(noise())
    for t, s in pairwise(times):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        denoised = model.denoise(x, t.to(x))
        square = float(((alpha * denoised - x) / sigma).double().square().mean())  # sigma^2 |s|^2/d
        mean, std = sde.bridge(x, denoised, s.to(x), t.to(x))
        b = float(sde.bridge(torch.zeros(1, 1), torch.ones(1, 1), s, t)[0])
        variances.append(float(std) ** 2 + b**2 * (sigma / alpha) ** 2 * max(0.0, 1 - square))
        x = mean + math.sqrt(variances[-1]) * noise()
    return torch.tensor(variances, dtype=torch.float64, device="cpu")


class _Step(Protocol):
    """A step of the chain with its weight: a kernel and its proposal."""

    def look(self, x: Tensor, t: Tensor) -> Any:
        """What the guide says at x, a named tuple with an entry for each particle."""

    def log_twist(self, at: Any) -> Tensor:
        """log p(y | x_t), `[batch]`."""

    def guided(self, at: Any) -> Tensor:
        """E[x_0 | x_t, y], shaped like x."""

    def __call__(self, x: Tensor, at: Any, t: Tensor, s: Tensor, kick: Noise) -> tuple[Tensor, Any, Tensor]:
        """x_s, what the guide says there, and the change of the log-weight, `[batch]`."""


class _IsotropicStep:
    """Kernels N(mu(x, D), v I), with proposals N(mu(x, D_y), v I)."""

    def __init__(self, guide: Twists, shape: tuple[int, ...], times: Tensor) -> None:
        self.guide = guide
        stds = kernel_variances(guide.model, shape, times).sqrt()
        self.stds = dict(zip(times[:-1].tolist(), stds.tolist(), strict=True))

    def look(self, x: Tensor, t: Tensor) -> Twist:
        return self.guide.twist(x, t.to(x))

    def log_twist(self, at: Twist) -> Tensor:
        return at.log_twist

    def guided(self, at: Twist) -> Tensor:
        return at.guided

    def __call__(self, x: Tensor, at: Twist, t: Tensor, s: Tensor, kick: Noise) -> tuple[Tensor, Twist, Tensor]:
        sde, std = self.guide.sde, self.stds[float(t)]
        mean = sde.bridge(x, at.guided, s.to(x), t.to(x))[0]
        plain = sde.bridge(x, at.denoised, s.to(x), t.to(x))[0]
        z = kick()
        x = mean + std * z
        # log of the chain's kernel over the proposal: with delta = mean - plain, -(z . delta/std + |delta/std|^2/2)
        delta = ((mean - plain) / std).flatten(1)
        change = -(z.flatten(1) * delta).sum(1) - 0.5 * delta.square().sum(1)
        new = self.look(x, s)
        return x, new, change + new.log_twist - at.log_twist


class _FullStep:
    r"""Kernels N(mu(x, D), C) with C = v I + b^2 V, proposed from their posterior given y.

    With (x_0, y) normal given x_t, y given x_s and x_t is N(A D + H (x_s - mu), S), with H = b A V C^{-1} and
    S = R + A V A^T - H C H^T. The proposal is the normal density of x_s given y. By Bayes the kernel over the proposal
    is N(y; A D, R + A V A^T) over N(y; A D + H (x_s - mu), S), whose numerator is the twist at x_t. The weight is
    therefore the twist at x_s over the prediction of it, and has no variance where V does not depend on x.
    """

    def __init__(self, guide: Any) -> None:
        self.guide = guide

    def look(self, x: Tensor, t: Tensor) -> Joint:
        return self.guide.joint(x, t.to(x))

    def log_twist(self, at: Joint) -> Tensor:
        return _log_normal(at.residual, _root(at.total))

    def guided(self, at: Joint) -> Tensor:
        return at.denoised + self._lifted(at.cross, at.total, at.residual).reshape(at.denoised.shape)

    def __call__(self, x: Tensor, at: Joint, t: Tensor, s: Tensor, kick: Noise) -> tuple[Tensor, Joint, Tensor]:
        sde, d = self.guide.sde, at.covariance.shape[-1]
        plain, std = sde.bridge(x, at.denoised, s.to(x), t.to(x))
        b = float(sde.bridge(torch.zeros(1, 1), torch.ones(1, 1), s, t)[0])
        c = std.reshape(-1, 1, 1).square() * torch.eye(d).to(x) + b**2 * at.covariance
        root = _root(c)
        h = b * torch.cholesky_solve(at.cross, root).mT
        left = _root(at.total - b * h @ at.cross)  # S = left left^T, since H C H^T = b H V A^T
        # A draw of (x_s - mu, y) moves to the y that was seen (Matheron's rule, Wilson et al. 2021).
        move = (root @ kick().flatten(1).unsqueeze(2)).squeeze(2)
        seen = (h @ move.unsqueeze(2) + left @ self._noise(at, kick).unsqueeze(2)).squeeze(2)
        move = move + self._lifted(b * at.cross, at.total, at.residual - seen)  # C H^T = b V A^T
        predicted = _log_normal(at.residual - (h @ move.unsqueeze(2)).squeeze(2), left)
        x = plain + move.reshape(x.shape)
        new = self.look(x, s)
        return x, new, self.log_twist(new) - predicted

    @staticmethod
    def _lifted(cross: Tensor, total: Tensor, residual: Tensor) -> Tensor:
        """cross total^{-1} residual, `[batch, d]`."""
        return (cross @ torch.cholesky_solve(residual.unsqueeze(2), _root(total))).squeeze(2)

    @staticmethod
    def _noise(at: Joint, kick: Noise) -> Tensor:
        """Independent draws N(0, 1) for the measurement, `[batch, m]`, from as many draws for a sample as it takes."""
        m, d = at.residual.shape[1], at.covariance.shape[-1]
        return torch.cat([kick().flatten(1) for _ in range(-(-m // d))], 1)[:, :m]


def _root(matrix: Tensor) -> Tensor:
    """The Cholesky factor, for matrices whose least eigenvalue may be below 0 by rounding."""
    size = torch.finfo(matrix.dtype).eps * matrix.shape[-1] * matrix.diagonal(dim1=-2, dim2=-1).amax(-1)
    return torch.linalg.cholesky(
        0.5 * (matrix + matrix.mT) + torch.diag_embed(size.unsqueeze(-1).expand(matrix.shape[:-1]))
    )


def _log_normal(residual: Tensor, root: Tensor) -> Tensor:
    """log N(residual; 0, root root^T) in nats, `[batch]`."""
    z = torch.linalg.solve_triangular(root, residual.unsqueeze(2), upper=False).squeeze(2)
    log_det = root.diagonal(dim1=1, dim2=2).log().sum(1)
    return -0.5 * z.square().sum(1) - log_det - 0.5 * residual.shape[1] * math.log(2 * math.pi)


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
        seed: int,
        first: int,
    ) -> None:
        self.groups, self.particles, self.threshold = observations * runs, particles, threshold
        self.kernel = kernel
        self.shape, self.seed, self.first = shape, seed, first * runs
        owners = torch.arange(observations).repeat_interleave(runs * particles)
        self.guide: Twists = select(guide, owners)
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
        step: _Step = _FullStep(self.guide) if self.kernel == "full" else _IsotropicStep(self.guide, self.shape, times)
        at = step.look(x, times[0])
        log_w = step.log_twist(at).reshape(self.groups, self.particles)
        log_mean = log_w.new_zeros(self.groups)
        for t, s in pairwise(times):
            log_w, log_mean, keep = self._resampled(log_w, log_mean, resample())
            if keep is not None:
                x, at = x[keep], type(at)(*(part[keep] for part in at))
            x, at, change = step(x, at, t, s, kick)
            log_w = log_w + change.reshape(self.groups, self.particles)
        total = log_w.logsumexp(1)
        return step.guided(at), log_w - total.unsqueeze(1), log_mean + total - math.log(self.particles)

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
