"""A time is a 0-d tensor or one time per sample: the first means that time for every sample, in every model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backdrift.models import (
    MLP,
    ConservativeDenoiser,
    Denoiser,
    GaussianMixture,
    HybridScore,
    Potential,
    UNet,
)
from backdrift.sde import VE, VP, CosineVP, CriticallyDamped, FunctionModel, GaussianSDE, Model, Rectified

SHAPES = {"unet": (2, 6, 5)}
"""Of a sample, where it is not a vector of three."""


def randomised(network: nn.Module) -> nn.Module:
    """The network with random weights everywhere; the last layer starts at 0, where no time matters."""
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return network.eval()


def mixture(sde: GaussianSDE, full: bool = False) -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    root = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    covariances = root @ root.mT if full else root.square()[:, 0]
    return GaussianMixture(means, covariances, sde=sde)


def labelled(sde: GaussianSDE) -> Denoiser:
    network = randomised(MLP(3, 16, 1, classes=4))
    return Denoiser(network, sde, 0.7).given(torch.tensor([0, 3, 1, 4, 2]))


MODELS: dict[str, Callable[[GaussianSDE], Model]] = {
    "mlp": lambda sde: Denoiser(randomised(MLP(3, 16, 2)), sde, 0.7),
    "labels": labelled,
    "unet": lambda sde: Denoiser(randomised(UNet(2, (8, 16), 1, (1,), fourier=(1, 2))), sde, 0.7),
    "conservative": lambda sde: ConservativeDenoiser(Potential(randomised(MLP(3, 16, 1))), sde, 0.7),
    "diagonal mixture": mixture,
    "full mixture": lambda sde: mixture(sde, full=True),
    "denoiser function": lambda sde: FunctionModel(mixture(sde).denoise, sde),
    "score function": lambda sde: FunctionModel(mixture(sde).score, sde, "score"),
    "noise function": lambda sde: FunctionModel(mixture(sde).noise, sde, "noise"),
    "velocity function": lambda sde: FunctionModel(mixture(sde).velocity, sde, "velocity"),
}


def both(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The function at a 0-d time, and at that time for each sample."""
    one = torch.tensor(t, dtype=dtype)
    with torch.no_grad():
        return function(x, one), function(x, one.expand(len(x)).clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sde", [VP(), VE(), CosineVP(), Rectified()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_0_d_time_is_that_time_for_every_sample(name: str, sde: GaussianSDE, dtype: torch.dtype) -> None:
    model: Any = MODELS[name](sde)
    model = model.to(dtype) if isinstance(model, (nn.Module, GaussianMixture)) else model
    x = torch.randn(5, *SHAPES.get(name, (3,)), generator=torch.Generator().manual_seed(2), dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    for share in (0.05, 0.5, 0.95):
        for method in ("denoise", "score", "noise", "velocity"):
            # The time may be wider than the state: grids are float64, whatever the network computes in.
            for of_time in (dtype, torch.float64):
                scalar, each = both(getattr(model, method), x, share * sde.T, of_time)
                assert scalar.shape == x.shape and scalar.dtype == dtype
                torch.testing.assert_close(scalar, each, rtol=tolerance, atol=tolerance * float(each.abs().max()))
        early, late = (model.denoise(x, torch.tensor(t * sde.T, dtype=dtype)) for t in (share, share / 2))
        assert float((early - late).detach().abs().max()) > 1e-6  # the time is not ignored


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_log_densities_take_a_0_d_time_too(dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=dtype)
    conservative = ConservativeDenoiser(Potential(randomised(MLP(3, 16, 1))), VP(), 0.7).to(dtype)
    known = mixture(VP(), full=True).to(dtype)
    for function in (conservative.log_prob, known.log_prob, known.posterior_variance):
        scalar, each = both(function, x, 0.4, dtype)
        assert scalar.shape == (5,)
        torch.testing.assert_close(scalar, each)


class OfStates(nn.Module):
    """An MLP on states with any number of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = randomised(MLP(6, 16, 1))

    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        return self.inner(z.flatten(1), c_noise).reshape(z.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_hybrid_score_takes_a_0_d_time(dtype: torch.dtype) -> None:
    model = HybridScore(OfStates(), CriticallyDamped(), 0.8).to(dtype)
    u = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2), dtype=dtype)
    for share in (0.05, 0.5, 0.95):
        for of_time in (dtype, torch.float64):
            for function in (model.score, model.__call__):
                scalar, each = both(function, u, share, of_time)
                assert scalar.dtype == dtype
                torch.testing.assert_close(scalar, each)


def test_a_mixture_answers_in_the_dtype_of_the_state() -> None:
    """Its tensors may be wider: it computes in theirs, and rounds the result."""
    wide = mixture(VP(), full=True)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    for method in ("denoise", "score", "noise", "velocity"):
        narrow = getattr(wide, method)(x, 0.4)
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), getattr(wide, method)(x.double(), 0.4), rtol=1e-5, atol=1e-5)
