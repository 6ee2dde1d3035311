"""The adaptive sampler reaches the exact flow as its tolerance falls, each sample on its own."""

import pytest
import torch

from models import GaussianMixture
from sde import VE, VP, CosineVP, FunctionModel, Rectified
from solvers import Adaptive, sample
from solvers.order import TwoModes


@pytest.mark.parametrize("sde", [VP(), VE(), CosineVP(), Rectified()])
def test_error_falls_with_the_tolerance(sde) -> None:
    """Against the quantile map of two modes, exact on the line: error within 100 tolerances."""
    modes = TwoModes(sde)
    x = sde.prior.std * torch.linspace(-2.2, 2.1, 24, dtype=torch.float64).unsqueeze(1)
    exact = modes.flow(x, sde.T, sde.eps)
    for tolerance in (1e-4, 1e-6, 1e-8):
        ends = Adaptive(rtol=tolerance, atol=tolerance, denoise=False, data_std=1.0).solve(modes, x)
        assert float((ends - exact).abs().max()) < 100 * tolerance


def test_normal_data_of_the_stated_width_need_no_small_step() -> None:
    """F vanishes: the flow of N(0, d^2) is z = const, exact whatever the tolerance."""
    model = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 0.25, sde=VP())
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sde = model.sde
    width_t = (float(sde.alpha(sde.T)) ** 2 * 0.25 + float(sde.sigma(sde.T)) ** 2) ** 0.5
    width_e = (float(sde.alpha(sde.eps)) ** 2 * 0.25 + float(sde.sigma(sde.eps)) ** 2) ** 0.5
    ends = Adaptive(rtol=1e-2, atol=1e-2, denoise=False).solve(model, x)
    torch.testing.assert_close(ends, x * width_e / width_t, rtol=1e-9, atol=1e-9)


def test_alone_as_in_a_batch() -> None:
    means = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = GaussianMixture(means, 0.01, sde=VP())
    batch = sample(model, Adaptive(), (64, 2), seed=3)
    alone = sample(model, Adaptive(), (1, 2), seed=3, first=17)
    torch.testing.assert_close(alone[0], batch[17], rtol=1e-12, atol=1e-12)


def test_never_asks_outside_the_interval() -> None:
    sde, asked = VP(), []

    def denoise(x, t):
        asked.append(torch.as_tensor(t).reshape(-1).detach())
        return x / (1 + torch.as_tensor(t).reshape(-1, *(1,) * (x.ndim - 1)))

    Adaptive().solve(FunctionModel(denoise, sde), torch.randn(8, 2, dtype=torch.float64))
    times = torch.cat(asked)
    assert float(times.min()) >= sde.eps and float(times.max()) <= sde.T


def test_a_sample_that_does_not_arrive_is_named() -> None:
    def broken(x, t):
        return torch.where(x[:, :1] > 0, torch.full_like(x, torch.nan), x)

    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(RuntimeError, match=r"1 of 2 samples have not arrived after 50 steps \(sample 1"):
        Adaptive(max_steps=50).solve(FunctionModel(broken, VP()), x)
