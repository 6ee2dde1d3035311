"""The divergence of guided samples from the tilted density, against quadrature in one dimension."""

from __future__ import annotations

import pytest
import torch

from backdrift.evaluation.guidance_gap import guidance_gap
from backdrift.models import GaussianMixture, guided
from backdrift.sde import VP
from backdrift.solvers import log_likelihood


def mixture() -> GaussianMixture:
    means = torch.tensor([[-1.0], [0.2], [1.0]], dtype=torch.float64)
    return GaussianMixture(means, 0.3, torch.tensor([0.3, 0.3, 0.4]).double(), VP(), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_two_models_are_their_own_tilted_densities(scale: float) -> None:
    """Within 4.5 standard errors, and 0.003 nats for the solver's steps."""
    found = guidance_gap(mixture(), 0, scale)
    assert abs(found.value) < 4.5 * found.standard_error + 3e-3
    assert found.standard_error < 0.05


def test_more_guidance_is_not_the_tilted_density() -> None:
    """For w = 3 the divergence by a sum over a grid, with the flow's own density of each point."""
    model, scale = mixture(), 3.0
    x = torch.linspace(-4.5, 2.5, 1401, dtype=torch.float64)[:, None]
    eps = model.sde.eps
    log_q = log_likelihood(guided(model, torch.tensor(0), scale), x, probes="exact", estimate_error=False).log_prob
    assert float(torch.trapezoid(log_q.exp(), x[:, 0])) == pytest.approx(1, abs=2e-3)
    log_class = model.given(torch.tensor(0)).log_prob(x, eps) + model.log_weights[0] - model.log_prob(x, eps)
    tilted = model.log_prob(x, eps) + scale * log_class
    log_z = torch.trapezoid(tilted.exp(), x[:, 0]).log()
    expected = float(torch.trapezoid(log_q.exp() * (log_q - tilted + log_z), x[:, 0]))
    found = guidance_gap(model, 0, scale, samples=2000)
    assert expected > 0.01
    assert abs(found.value - expected) < 4.5 * found.standard_error + 3e-3
    assert found.standard_error < expected / 4
