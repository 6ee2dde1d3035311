"""A model that holds a label for each sample: every estimator gives each sample the density of its own label."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from labelled import MEANS, STD, LabelledGaussian, LabelledPositions
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, GaussianSDE
from backdrift.solvers import (
    Chain,
    Independent,
    decode,
    elbo,
    encode,
    interpolate,
    log_density,
    log_likelihood,
    position_log_likelihood,
    relative_entropy,
)
from backdrift.solvers.density.latent import slerp

LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
"""Samples of different labels take different numbers of adaptive steps, and leave the batch one after the other."""

EXACT: dict[str, Any] = {"probes": "exact"}
METHODS: list[tuple[dict[str, Any], float]] = [
    ({"method": "rk4", "steps": 24, **EXACT}, 2e-3),
    ({"method": "rk4", "steps": 24, "divergences": "every", **EXACT}, 2e-3),
    ({"method": "rk4", "steps": 24, "probes": 2}, 2e-3),
    ({"method": "rk4", "steps": 24, "probes": 2, "probe_kind": "hutch++"}, 2e-3),
    ({"method": "heun", "steps": 48, **EXACT}, 2e-2),
    ({"method": "midpoint", "steps": 48, "probes": 2}, 2e-2),
    ({"method": "score_corrected", "steps": 64, **EXACT}, 2e-3),
    ({"method": "score_corrected", "steps": 64, "probes": 2}, 2e-3),
    ({"method": "adaptive", "rtol": 1e-6, "atol": 1e-6, **EXACT}, 1e-4),
    ({"method": "adaptive", "rtol": 1e-6, "atol": 1e-6, "probes": 2}, 1e-4),
]
"""Settings of log_likelihood and the error that they may make, in nats. The Jacobian is a multiple of the identity, for
which all of these probes are exact."""


def name(case: Any) -> str:
    return "-".join(map(str, case.values())) if isinstance(case, dict) else str(case)


@pytest.mark.parametrize(("settings", "tolerance"), METHODS, ids=name)
def test_log_likelihood_is_that_of_the_sample_s_own_label(settings: dict[str, Any], tolerance: float) -> None:
    model = LabelledGaussian(LABELS, VP())
    x = model.sample(model.sde.eps, 2)
    found = log_likelihood(model, x, prior=model, **settings)
    expected = model.log_prob(x, model.sde.eps)
    torch.testing.assert_close(found.log_prob, expected, atol=tolerance, rtol=0)
    if settings["method"] == "adaptive":
        assert len(set(found.nfe.tolist())) > 1
    # The label matters: with that of the sample before, the density is another.
    other = log_likelihood(model.select(torch.arange(6).roll(1)), x, prior=model, **settings)
    changed = LABELS.roll(1) != LABELS
    assert float((other.log_prob - expected).abs()[changed].min()) > 0.1


@pytest.mark.parametrize("sde", [VP(), VE()], ids=["VP", "VE"])
def test_elbo_and_density_are_those_of_the_sample_s_own_label(sde: GaussianSDE) -> None:
    """Equalities for the true denoiser: within 4.5 standard errors, and the gap of the prior in `elbo`."""
    model = LabelledGaussian(LABELS, sde)
    x = model.sample(sde.eps, 2)
    found = elbo(model, x, strata=64, draws=4)
    off = (found.value - model.log_prob(x, sde.eps)).abs()
    assert bool((off < 4.5 * found.standard_error + 5e-3).all()), (off, found.standard_error)
    # Of all samples together, since the error of one is estimated with as few as 2 degrees of freedom.
    assert float(found.standard_error.square().mean().sqrt()) < 0.15
    x = model.mean(x) + STD * torch.linspace(-1.5, 1.5, 12).double().reshape(6, 2)
    density = log_density(model, x, strata=64, draws=4)
    normal = -0.5 * ((x - model.mean(x)) / STD).square().sum(1) - math.log(2 * math.pi * STD**2)
    off = (density.value - normal).abs()
    assert bool((off < 4.5 * density.standard_error + 5e-3).all()), (off, density.standard_error)


def carried(model: LabelledGaussian, x: Tensor, t: float, s: float) -> Tensor:
    """The flow of normal data: the standardised state stays what it is."""
    sde, mean = model.sde, model.mean(x)
    width = [math.hypot(float(sde.alpha(at)) * STD, float(sde.sigma(at))) for at in (t, s)]
    return float(sde.alpha(s)) * mean + width[1] / width[0] * (x - float(sde.alpha(t)) * mean)


@pytest.mark.parametrize("settings", [{"steps": 48}, {"method": "adaptive", "rtol": 1e-7, "atol": 1e-7}], ids=name)
def test_latents_are_those_of_the_sample_s_own_label(settings: dict[str, Any]) -> None:
    model = LabelledGaussian(LABELS, VP())
    eps, end = model.sde.eps, model.sde.T
    x = model.sample(eps, 2)
    latent = carried(model, x, eps, end)
    found = encode(model, x, **settings)
    torch.testing.assert_close(found.latent, latent, atol=2e-4, rtol=0)
    assert float(found.round_trip_error.max()) < 2e-4
    torch.testing.assert_close(decode(model, latent, **settings), x, atol=2e-4, rtol=0)
    other = carried(model, model.sample(eps, 2, seed=1), eps, end)
    between = interpolate(model, x, carried(model, other, end, eps), points=4, **settings)
    for share, state in zip((0, 1 / 3, 2 / 3, 1), between, strict=True):
        torch.testing.assert_close(state, carried(model, slerp(latent, other, share), end, eps), atol=1e-3, rtol=0)


def test_the_chain_s_bound_is_that_of_the_sample_s_own_label() -> None:
    """To rounding the bound of each sample alone under the normal density of its label, at the same draws."""
    chain = Chain(VP(), torch.linspace(0.02, 1, 12))
    model = LabelledGaussian(LABELS, chain.sde)
    x = model.sample(chain.sde.eps, 2)
    found = chain.elbo(model, x, seed=3, data_std=0.8)
    for i, label in enumerate(LABELS.tolist()):
        own = GaussianMixture(MEANS[label].expand(1, 2), STD**2, sde=chain.sde)
        alone = chain.elbo(own, x[i : i + 1], seed=3, first=i, data_std=0.8)
        torch.testing.assert_close(found.total[i : i + 1], alone.total)


def test_the_divergence_of_two_labellings_is_that_of_their_means() -> None:
    """KL(N(m, s^2) | N(m', s^2)) = dim (m - m')^2/(2 s^2) for each sample, and twice that for two independent parts."""
    sde = VP()
    p, q = LabelledGaussian(LABELS, sde), LabelledGaussian(LABELS.roll(1), sde)
    x = p.sample(sde.eps, 2)
    found = relative_entropy(p, q, x, strata=64, draws=4).samples
    expected = (MEANS[LABELS] - MEANS[LABELS.roll(1)]).square() / STD**2
    assert bool(((found.value - expected).abs() <= 4.5 * found.standard_error + 2e-3 * expected).all())
    twice = x.repeat(1, 2)
    order = torch.tensor([4, 0, 3])
    two_p, two_q = (Independent([m, m], [2, 2]).select(order) for m in (p, q))
    found = relative_entropy(two_p, two_q, twice[order], strata=64, draws=4).samples
    assert bool(
        ((found.value - 2 * expected[order]).abs() <= 4.5 * found.standard_error + 4e-3 * expected[order]).all()
    )


def test_positions_are_those_of_the_sample_s_own_label() -> None:
    """Every sample is repeated for its draws of the velocity: within 4.5 standard errors and 0.01 nats."""
    model, eps = LabelledPositions(LABELS), 0.05
    x = MEANS[LABELS].unsqueeze(1) + torch.tensor([[0.5], [-0.3], [0.0], [0.7], [-0.6], [0.2]]).double()
    mean, covariance = model.moments(eps)
    exact = torch.distributions.Normal(mean[:, 0], covariance[0, 0].sqrt()).log_prob(x[:, 0])
    found = position_log_likelihood(model, x, draws=64, eps=eps, probes="exact", steps=24, prior=model)
    off = (found.log_prob - exact).abs()
    assert bool((off < 4.5 * found.standard_error + 0.01).all()), (off, found.standard_error)
    assert float(found.standard_error.max()) < 0.1
