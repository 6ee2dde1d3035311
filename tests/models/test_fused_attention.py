"""Networks of a user whose attention is fused: their derivatives are those of the plain matrix products."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrift.models import ConservativeDenoiser, Denoiser, DenoisingLoss, ImplicitLoss
from backdrift.models.conservative import Potential
from backdrift.models.score_identities import curl, score_residual
from backdrift.sde import VP


class Attentive(nn.Module):
    """Self-attention over the four numbers of a sample, fused as in most networks, or in plain matrix products."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(2, 24), nn.Linear(8, 1)

    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        both = torch.stack((z, c_noise.reshape(-1, 1).expand_as(z)), dim=-1)
        q, k, v = self.first(both).unsqueeze(1).chunk(3, dim=-1)
        if self.fused:
            h = functional.scaled_dot_product_attention(q, k, v)
        else:
            h = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v
        return self.last(h)[:, 0, :, 0]


def states() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def test_the_identities_of_a_score_are_checked_through_fused_attention() -> None:
    fused, plain = (Denoiser(Attentive(kind), VP()).eval().requires_grad_(False) for kind in (True, False))
    x, t = states(), torch.tensor(0.4)
    found, expected = (score_residual(model, x, 0.4) for model in (fused, plain))
    torch.testing.assert_close(found.residual, expected.residual, rtol=1e-4, atol=1e-5)
    turned, own = (curl(partial(model.score, t=t), x) for model in (fused, plain))
    assert turned.value == pytest.approx(own.value, rel=1e-4) and own.value > 1e-3


def gradients(model: Any, loss: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    loss(model, states(), generator=generator).mean().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("kind", ["energy", "implicit"])
def test_a_loss_with_second_derivatives_trains_fused_attention(kind: str) -> None:
    if kind == "energy":
        models = [ConservativeDenoiser(Potential(Attentive(fused)), VP()) for fused in (True, False)]
        found, expected = (gradients(model, DenoisingLoss()) for model in models)
    else:
        found, expected = (gradients(Denoiser(Attentive(fused), VP()), ImplicitLoss()) for fused in (True, False))
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
