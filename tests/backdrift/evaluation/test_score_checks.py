"""The section of a report on the score, for a network that cannot be differentiated in every way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backdrift.evaluation import score_checks
from backdrift.models import Denoiser
from backdrift.sde import VP


class NoForwardMode(torch.autograd.Function):
    """The identity, with a derivative in reverse mode alone."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope


class Reversible(nn.Module):
    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        value: Tensor = NoForwardMode.apply(z)
        return value


def test_a_report_says_that_a_network_has_no_derivative_in_forward_mode() -> None:
    said = score_checks.section(Denoiser(Reversible(), VP()).eval(), torch.randn(5, 4))
    assert said.startswith("## Score\n\nThe score is not checked: ") and said.count("\n") == 2
