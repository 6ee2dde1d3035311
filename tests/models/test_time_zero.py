"""At t = 0, where sigma = 0 for most processes: every denoiser is x there, and what has no limit is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from backdrift.models import MLP, ConservativeDenoiser, Denoiser, GaussianMixture, HybridScore, Potential, UNet
from backdrift.sde import (
    VE,
    VP,
    Brownian,
    CosineVP,
    CriticallyDamped,
    FunctionModel,
    GaussianSDE,
    Model,
    OrnsteinUhlenbeck,
    Rectified,
    SubVP,
)

WITHOUT_NOISE = [VP(), SubVP(), CosineVP(), Brownian(), Rectified(), OrnsteinUhlenbeck()]
"""The processes with sigma(0) = 0."""


def awake(network: nn.Module) -> nn.Module:
    """A network none of whose layers is 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def shifted(x: Tensor, t: object) -> Tensor:
    """A function that is no denoiser, score, noise or velocity of anything."""
    return 2 * x + 3


MODELS: dict[str, Callable[[GaussianSDE], Model]] = {
    "mixture": lambda sde: GaussianMixture(torch.tensor([[0.0, 3, 0, 0], [1, -2, 0, 1]]), 0.3, sde=sde),
    "full mixture": lambda sde: GaussianMixture(torch.eye(4)[:2], torch.eye(4).expand(2, 4, 4), sde=sde),
    "points": lambda sde: GaussianMixture(torch.tensor([[0.0, 3, 0, 0], [1, -2, 0, 1]]), 0.0, sde=sde),
    "MLP": lambda sde: Denoiser(awake(MLP(4, 16, 1)), sde),
    "conservative": lambda sde: ConservativeDenoiser(awake(Potential(MLP(4, 16, 1))), sde),
    "noise": lambda sde: FunctionModel(shifted, sde, "noise"),
    "score": lambda sde: FunctionModel(shifted, sde, "score"),
    "velocity": lambda sde: FunctionModel(shifted, sde, "velocity"),
}


@pytest.mark.parametrize("sde", WITHOUT_NOISE, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("name", MODELS)
def test_the_denoiser_is_x_where_there_is_no_noise(name: str, sde: GaussianSDE) -> None:
    """alpha(0) = 1 and sigma(0) = 0, so that x_0 = x_t; also beside samples at other times, which stay as alone."""
    model = MODELS[name](sde)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for t in (0.0, torch.tensor(0.0), torch.zeros(3)):
        torch.testing.assert_close(model.denoise(x, t), x, rtol=1e-6, atol=1e-6)
    mixed = model.denoise(x, torch.tensor([0.0, 0.3, 0.0]) * sde.T)
    torch.testing.assert_close(mixed[[0, 2]], x[[0, 2]], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mixed[1:2], model.denoise(x[1:2], 0.3 * sde.T))


def test_a_u_net_is_x_where_there_is_no_noise() -> None:
    network = awake(UNet(1, widths=(8, 8), blocks=1, attention=(1,), fourier=(0, 2)))
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Denoiser(network, VP()).denoise(x, 0.0), x, rtol=1e-6, atol=1e-6)


def test_ve_begins_with_noise() -> None:
    """D = x d^2/(sigma_min^2 + d^2) for N(0, d^2), also at t = 0."""
    model = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 0.25, sde=VE(sigma_min=0.5))
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(model.denoise(x, 0.0), x / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.score(x, 0.0), -x / 0.5, rtol=1e-12, atol=0)


@pytest.mark.parametrize("wanted", ["score", "noise", "velocity"])
def test_what_the_denoiser_does_not_say_without_noise_is_refused(wanted: str) -> None:
    model = Denoiser(awake(MLP(2, 8, 1)), VP())
    with pytest.raises(ValueError, match=rf"^t: expected a time at which sigma is positive, .* no {wanted}"):
        getattr(model, wanted)(torch.zeros(2, 2), 0.0)


def test_a_mixture_s_own_score_and_density_have_a_value_without_noise() -> None:
    """Those of N(m, v): -(x - m)/v, and the normal density."""
    model = GaussianMixture(torch.tensor([[1.0, -1.0]]).double(), 0.5, sde=VP())
    x = torch.tensor([[0.3, 2.0]]).double()
    torch.testing.assert_close(model.score(x, 0.0), -(x - model.means) / 0.5)
    normal = torch.distributions.Normal(model.means, 0.5**0.5).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x, 0.0), normal)
    torch.testing.assert_close(model.log_prob(x), normal)
    torch.testing.assert_close(model.posterior_variance(x, 0.0), torch.zeros(1).double())


@pytest.mark.parametrize("method", ["log_prob", "score", "posterior_variance"])
def test_points_have_no_density_without_noise(method: str) -> None:
    points = GaussianMixture(torch.eye(2), 0.0, sde=VP())
    with pytest.raises(ValueError, match=r"^t: .* covariance here is singular"):
        getattr(points, method)(torch.zeros(1, 2), 0.0)
    with pytest.raises(ValueError, match=r"^t: .* covariance here is singular"):
        points.log_prob(torch.zeros(1, 2))


def test_critically_damped_scores_begin_after_zero() -> None:
    model = HybridScore(MLP((2, 3), 8, 1), CriticallyDamped())
    with pytest.raises(ValueError, match=r"^t: expected a time above 0"):
        model.score(torch.zeros(2, 2, 3), 0.0)


def test_a_conservative_density_needs_noise() -> None:
    model = ConservativeDenoiser(awake(Potential(MLP(2, 8, 1))), VP())
    with pytest.raises(ValueError, match=r"^t: expected a time at which sigma is positive"):
        model.log_prob(torch.zeros(2, 2), 0.0)
