"""A joint normal density of samples a and conditions b, whose conditional densities are closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact_models import NoNetwork, in_place_of_the_model
from torch import Tensor

from backdrift.data import Units
from backdrift.models import Vector
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.models.conditional_network import ConditionalNetwork
from backdrift.runs.run import Run
from backdrift.sde import VP, DataMoments, Time, as_time

MEAN = torch.tensor([0.5, -1.0, 5000.0, -3.0], dtype=torch.float64)
"""Of (a_1, a_2, b_1, b_2). The numbers of b have other units than those of a."""

FACTOR = torch.tensor(
    [[0.5, 0.0, 0.8, -0.3], [0.2, 0.4, 0.0, 0.6], [0.0, 0.0, 120.0, 0.0], [0.0, 0.0, 0.004, 0.008]],
    dtype=torch.float64,
)
"""The joint vector is MEAN + FACTOR eps with eps ~ N(0, I)."""

COVARIANCE = FACTOR @ FACTOR.T


def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples a `[n, 2]` and their conditions b `[n, 2]`, in float64."""
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    joint = MEAN + noise @ FACTOR.T
    return joint[:, :2], joint[:, 2:]


def conditional(b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[2]` and covariance `[2, 2]` of p(a | b) for one b `[2]`; a NaN in it is not known."""
    known = [2 + i for i in range(2) if not bool(b[i].isnan())]
    if not known:
        return MEAN[:2], COVARIANCE[:2, :2]
    gain = COVARIANCE[:2, known] @ torch.linalg.inv(COVARIANCE[known][:, known])
    given = torch.stack([b[i - 2] for i in known]).double()
    return MEAN[:2] + gain @ (given - MEAN[known]), COVARIANCE[:2, :2] - gain @ COVARIANCE[known, :2]


def log_conditional(a: Tensor, b: Tensor) -> Tensor:
    """log p(a | b) in nats, `[n]`, for samples a `[n, 2]` and conditions b `[n, 2]`."""
    each = []
    for one, given in zip(a.double(), b.double(), strict=True):
        mean, covariance = conditional(given)
        each.append(torch.distributions.MultivariateNormal(mean, covariance).log_prob(one))
    return torch.stack(each)


class ExactConditional(ConditionalNetwork):
    """The denoiser of p(a | b) in the units of a model, in the place of a trained network.

    Args:
        units: of a.
        moments: of b, by which a trained network would see it standardised.
    """

    data_std = 1.0

    def __init__(self, units: Units, moments: DataMoments) -> None:
        super().__init__(NoNetwork(AcceptedCondition(Vector, 2)))
        self.units, self.condition_moments, self.sde = units, moments, VP()
        self.data_moments = DataMoments(
            (MEAN[:2] - units.shift) / units.scale, COVARIANCE[:2, :2].diagonal() / units.scale.double() ** 2
        )

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        scale, time = self.units.scale.to(x), as_time(t, x)
        mean, covariance = self._posterior(x)
        mean = (mean.to(x) - self.units.shift.to(x)) / scale
        covariance = covariance.to(x) / scale / scale.unsqueeze(-1)
        alpha, sigma = (value.reshape(-1, 1) for value in (self.sde.alpha(time), self.sde.sigma(time)))
        total = alpha.unsqueeze(2) ** 2 * covariance + sigma.unsqueeze(2) ** 2 * torch.eye(2).to(x)
        inverse = torch.linalg.solve(total, (x - alpha * mean).unsqueeze(2))
        return mean + alpha * (covariance @ inverse).squeeze(2)

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The means of a given b, `[batch or 1, 2]`, and their covariance."""
        if self.condition is None:
            return MEAN[None, :2], COVARIANCE[:2, :2]
        moments: Any = self.condition_moments
        b = self.condition.value.double() * moments.variance.sqrt() + moments.mean
        gain = COVARIANCE[:2, 2:] @ torch.linalg.inv(COVARIANCE[2:, 2:])
        assert b.ndim == 1 or len(b) == len(x), f"{len(x)} samples, {len(b)} conditions"
        return MEAN[:2] + (b.reshape(-1, 2) - MEAN[2:]) @ gain.T, conditional(torch.zeros(2))[1]


def with_exact_model(folder: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run in a folder, whose model is p(a | b) while a test runs. It stands for a network that has learnt it."""
    return in_place_of_the_model(folder, ExactConditional, monkeypatch)
