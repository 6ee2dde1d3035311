"""A joint normal density of pairs of pictures, whose conditional densities are closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact_models import NoNetwork, in_place_of_the_model
from torch import Tensor

from backdrift.data import Units
from backdrift.models import Picture
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.models.conditional_network import ConditionalNetwork
from backdrift.runs.run import Run
from backdrift.sde import VP, DataMoments, Time, as_time

SHAPE = (1, 4, 4)
"""Of a picture a, and of the picture b that it is given."""
PIXELS = 16

MEAN = torch.cat([torch.linspace(-1.0, 1.0, PIXELS), torch.full((PIXELS,), 300.0)]).double()
"""Of the pixels of a and of b, which have other units."""


def _factor() -> Tensor:
    """a shares half of its pixels' noise with the same pixels of b and their neighbours."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.eye(PIXELS) + 0.4 * torch.randn(PIXELS, PIXELS, generator=generator) / PIXELS**0.5
    own = 0.4 * torch.eye(PIXELS) + 0.2 * torch.randn(PIXELS, PIXELS, generator=generator) / PIXELS**0.5
    nothing = torch.zeros(PIXELS, PIXELS)
    return torch.cat([torch.cat([own, 0.6 * shared], 1), torch.cat([nothing, 40 * torch.eye(PIXELS)], 1)]).double()


FACTOR = _factor()
"""The joint vector is MEAN + FACTOR eps with eps ~ N(0, I)."""

COVARIANCE = FACTOR @ FACTOR.T
GAIN = torch.linalg.solve(COVARIANCE[PIXELS:, PIXELS:], COVARIANCE[PIXELS:, :PIXELS]).T
GIVEN = COVARIANCE[:PIXELS, :PIXELS] - GAIN @ COVARIANCE[PIXELS:, :PIXELS]
"""The covariance of p(a | b), which is the same for every b."""


def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures a and their pictures b, `[n, 1, 4, 4]` each, in float64."""
    noise = torch.randn(n, 2 * PIXELS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a, b = (MEAN + noise @ FACTOR.T).split(PIXELS, 1)
    return a.reshape(n, *SHAPE), b.reshape(n, *SHAPE)


def conditional(b: Tensor | None) -> tuple[Tensor, Tensor]:
    """The means of p(a | b), `[n, 16]`, for pictures b `[n, 1, 4, 4]`, and the covariance; those of p(a) for None."""
    if b is None:
        return MEAN[None, :PIXELS], COVARIANCE[:PIXELS, :PIXELS]
    return MEAN[:PIXELS] + (b.double().flatten(1) - MEAN[PIXELS:]) @ GAIN.T, GIVEN


def log_conditional(a: Tensor, b: Tensor | None) -> Tensor:
    """log p(a | b) in nats, `[n]`, or log p(a) for None."""
    mean, covariance = conditional(b)
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(a.double().flatten(1))


class ExactConditional(ConditionalNetwork):
    """The denoiser of p(a | b) in the units of a model, in the place of a trained network.

    Args:
        units: of a.
        moments: of b, one mean and variance for the channel, by which a trained network would see it standardised.
    """

    data_std = 1.0

    def __init__(self, units: Units, moments: DataMoments) -> None:
        super().__init__(NoNetwork(AcceptedCondition(Picture, 1)))
        self.units, self.condition_moments, self.sde = units, moments, VP()
        mean, covariance = conditional(None)
        variance = covariance.diagonal().reshape(SHAPE)
        self.data_moments = DataMoments(
            (mean.reshape(SHAPE) - units.shift) / units.scale, variance / units.scale.double() ** 2
        )

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        b = None
        if self.condition is not None:
            moments: Any = self.condition_moments
            b = self.condition.value.double() * moments.variance.sqrt() + moments.mean
            assert b.ndim == 3 or len(b) == len(x), f"{len(x)} samples, {len(b)} conditions"
            b = b.reshape(-1, *SHAPE)
        mean, covariance = conditional(b)
        scale, shift = (value.double().expand(SHAPE).flatten() for value in (self.units.scale, self.units.shift))
        mean, covariance = (mean - shift) / scale, covariance / scale / scale.unsqueeze(1)
        time = as_time(t, x)
        alpha, sigma = (value.double().reshape(-1, 1) for value in (self.sde.alpha(time), self.sde.sigma(time)))
        total = alpha.unsqueeze(2) ** 2 * covariance + sigma.unsqueeze(2) ** 2 * torch.eye(PIXELS, dtype=torch.float64)
        residual = (x.double().flatten(1) - alpha * mean).unsqueeze(2)
        found = mean + alpha * (covariance @ torch.linalg.solve(total, residual)).squeeze(2)
        return found.reshape(x.shape).to(x)


def with_exact_model(folder: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run in a folder, whose model is p(a | b) while a test runs. It stands for a network that has learnt it."""
    return in_place_of_the_model(folder, ExactConditional, monkeypatch)
