"""Bits/dim of diffusers' `UNet2DModel` with attention: exact probes, random probes and a fine grid agree."""

import math

import pytest
import torch

from backdrift.models import Denoiser
from backdrift.models.field_networks import UNet2D
from backdrift.sde import VP
from backdrift.solvers import log_likelihood

pytest.importorskip("diffusers", reason="backdrift[diffusers] is not installed")


@pytest.fixture(scope="module")
def model() -> Denoiser:
    torch.manual_seed(0)
    network = UNet2D(1, widths=(8, 16), attention=(1,), groups=4, head=8)
    for weight in network.parameters():  # a network that has learnt something bends its flow; that of the start is flat
        weight.data.mul_(1.5)
    return Denoiser(network, VP(), 0.5).eval().requires_grad_(False)


def test_three_likelihoods_of_a_network_of_diffusers_agree(model: Denoiser) -> None:
    """In bits/dim, within four standard errors of the random probes, and the stated solver errors besides."""
    x = 0.5 * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    bits = x[0].numel() * math.log(2)
    exact = log_likelihood(model, x, steps=8, probes="exact")
    fine = log_likelihood(model, x, steps=24, probes="exact", estimate_error=False)
    random = log_likelihood(model, x, steps=8, probes=8, seed=3, estimate_error=False)
    assert float((exact.log_prob - fine.log_prob).abs().max()) / bits < 2e-3
    assert bool(((exact.log_prob - fine.log_prob).abs() < 4 * exact.solver_error + 1e-3).all())
    assert bool(((exact.log_prob - random.log_prob).abs() < 4 * random.standard_error).all())
    assert bool((random.standard_error > 0).all())
