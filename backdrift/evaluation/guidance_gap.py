"""How far guided samples are from the density that guidance is meant to sample, where that is known."""

from __future__ import annotations

import math

import torch

from backdrift.evaluation.metrics import Estimate
from backdrift.models import GaussianMixture, guided
from backdrift.sde.checks import require_integer
from backdrift.solvers import Adams, Solver, log_likelihood, sample


def guidance_gap(
    mixture: GaussianMixture,
    label: int,
    scale: float,
    *,
    samples: int = 1000,
    solver: Solver | None = None,
    steps: int = 48,
    interval: tuple[float, float] | None = None,
    seed: int = 0,
) -> Estimate:
    r"""The Kullback-Leibler divergence, in nats, from guided samples to the tilted density p(x) p(c | x)^w / Z:

    .. math:: E_q[\log q(x) - \log p(x) - w \log p(c | x)] + \log Z, \qquad
            Z = E_{p(x)}[p(c | x)^w] = p(c) \, E_{p(x | c)}[p(c | x)^{w - 1}]

    q is the density of the samples, by the probability flow of the guided model. The divergence is 0 for w = 0 and
    w = 1. For other w it is not: the noised tilted density has another score than the one that guidance follows.

    Args:
        mixture: a density with classes, under its process.
        label: c.
        scale: w.
        samples: of the guided model, and of the class for Z.
        solver: makes the samples; by default `Adams(steps=40)`.
        steps: of the likelihoods.
        interval: of noise levels within which guidance is on, see `models.Guided`.
        seed: of the samples.

    Returns:
        The divergence, with the standard error over the samples. The error of the solver and of the flow is not in it.

    Raises:
        ValueError: if `samples` is below 2, or no component is of the class.
    """
    require_integer("samples", samples, 2)
    model = guided(mixture, torch.tensor(label), scale, interval=interval)
    shape = (samples, *mixture.shape)
    x = sample(model, Adams(steps=40) if solver is None else solver, shape, seed, dtype=torch.float64)
    one, eps = mixture.given(torch.tensor(label)), mixture.sde.eps
    log_share = mixture.log_weights[mixture.classes == label].logsumexp(0)

    def log_class(z: torch.Tensor) -> torch.Tensor:
        return one.log_prob(z, eps) + log_share - mixture.log_prob(z, eps)

    log_q = log_likelihood(model, x, probes="exact", steps=steps, estimate_error=False).log_prob
    terms = log_q - mixture.log_prob(x, eps) - scale * log_class(x)
    generator = torch.Generator().manual_seed(seed + 1)
    # Z is a mean over the class for w >= 1 and over all data below, where the terms of the other vary too much.
    tilts = scale >= 1
    clean = (one if tilts else mixture).sample(samples, generator)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device="cpu").to(clean)
    powers = (scale - tilts) * log_class(mixture.sde.perturb(clean, eps, noise))
    log_z = float(tilts * log_share + powers.logsumexp(0)) - math.log(samples)
    ratios = (powers - powers.max()).exp()
    relative = float(ratios.std() / ratios.mean())
    error = math.hypot(float(terms.std()), relative) / math.sqrt(samples)
    return Estimate(float(terms.mean()) + log_z, error)
