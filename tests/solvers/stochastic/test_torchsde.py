"""The reverse SDE solved by torchsde, against exactly known densities."""

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from lognormal import LogNormalModel
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, CosineVP, GaussianSDE, Rectified
from backdrift.solvers import Noise, TorchSDE, sample
from backdrift.solvers.stochastic.torchsde_solver import Method, _Increments

PROCESSES = [VP(), CosineVP(), VE(), Rectified()]
MEAN, STD = 0.7, 0.6


def gaussian(sde: GaussianSDE) -> GaussianMixture:
    return GaussianMixture(torch.full((1, 1), MEAN).double(), STD**2, sde=sde)


def moments(sde: GaussianSDE, t: float) -> tuple[float, float]:
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    return alpha * MEAN, (alpha * STD) ** 2 + sigma**2


def close(x: Tensor, mean: float, variance: float, bias: float = 0.0) -> None:
    """Check the mean and variance within 4.5 standard errors plus a given bias of the discretisation."""
    n = x.numel()
    assert float(x.mean()) == pytest.approx(mean, abs=(4.5 / math.sqrt(n) + bias) * math.sqrt(variance))
    assert float(x.var() / variance) == pytest.approx(1, abs=4.5 * math.sqrt(2 / n) + bias)


def normal(n: int, mean: float, variance: float, seed: int) -> Tensor:
    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + math.sqrt(variance) * z


@pytest.mark.parametrize("stochasticity", [0.5, 1.0])
@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_reverse_of_a_gaussian(sde: GaussianSDE, stochasticity: float) -> None:
    n = 4000
    x_T = normal(n, *moments(sde, sde.T), seed=0)
    solver = TorchSDE(steps=40, stochasticity=stochasticity, denoise=False, eps=0.02 * sde.T)
    x = sample(gaussian(sde), solver, x_T=x_T, seed=1)
    close(x, *moments(sde, 0.02 * sde.T), bias=0.01)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("srk", 3)])
def test_probability_flow_converges(method: Method, order: int) -> None:
    """With stochasticity 0, against the exact map. The deterministic part of srk (Rößler's SRI2) has order 3."""
    sde, errors = VP(), []
    (mean_T, var_T), (mean, variance) = moments(sde, 1.0), moments(sde, 0.05)
    x_T = torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)
    exact = mean + math.sqrt(variance / var_T) * (x_T - mean_T)
    for steps in (50, 200):
        solver = TorchSDE(method=method, steps=steps, stochasticity=0.0, eps=0.05, denoise=False)
        errors.append(float((sample(gaussian(sde), solver, x_T=x_T) - exact).abs().max()))
    assert math.log(errors[0] / errors[1]) / math.log(4) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("method", ["milstein", "srk"])
def test_a_process_that_is_not_gaussian(method: Method) -> None:
    """A process with state-dependent noise, run back from exact samples of p_T to log-normal data."""
    model, n = LogNormalModel(), 2000
    mean, variance = model.sde.moments(1.0)
    y_T = mean + math.sqrt(variance) * torch.randn(
        n, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    x = sample(model, TorchSDE(method=method, clock="t", steps=100), x_T=y_T.exp(), seed=3)
    close(x.log(), *model.sde.moments(0.0), bias=0.02)


def test_clocks_agree() -> None:
    sde, n = VP(), 2000
    mean, variance = moments(sde, 1.0)
    x_T = mean + math.sqrt(variance) * torch.randn(
        n, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    clocks: tuple[Literal["t", "log_snr"], ...] = ("t", "log_snr")
    for clock in clocks:
        solver = TorchSDE(method="euler", steps=300, clock=clock, eps=0.05, denoise=False)
        close(sample(gaussian(sde), solver, x_T=x_T, seed=5), *moments(sde, 0.05), bias=0.01)


def test_increments_have_the_law_of_brownian_motion() -> None:
    """W ~ N(0, h) and U = int W dr have Var U = h^3/3 and Cov(W, U) = h^2/2. A second call returns the same."""
    n, h = 20000, 0.5
    increments = _Increments(Noise(0, (n, 1), dtype=torch.float64), (n, 1))
    w, u = increments(1.0, 1.0 + h, return_U=True)
    assert torch.equal(increments(1.0, 1.0 + h), w)
    assert torch.equal(increments(1.0, 1.0 + h, return_U=True)[1], u)
    for product, expected in ((w * w, h), (u * u, h**3 / 3), (w * u, h**2 / 2)):
        assert float(product.mean()) == pytest.approx(expected, abs=4.5 * float(product.std()) / math.sqrt(n))
    following = increments(1.0 + h, 1.0 + 2 * h)
    assert abs(float((w * following).mean())) < 4.5 * h / math.sqrt(n)
    with pytest.raises(ValueError, match=r"^method: "):
        increments(1.0, 2.0, return_A=True)


@pytest.mark.parametrize("method", ["euler", "milstein", "srk"])
def test_a_sample_does_not_know_its_neighbours(method: Method) -> None:
    model = GaussianMixture(torch.tensor([[1.0, -1.0], [-1.0, 0.5]]).double(), 0.1, sde=VP())
    solver = TorchSDE(method=method, steps=15)
    batch = sample(model, solver, (64, 2), seed=1)
    for i in (0, 30, 63):
        torch.testing.assert_close(sample(model, solver, (1, 2), seed=1, first=i)[0], batch[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(200, 1, 3, 3), (200, 5), (200, 2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The samples have the variance of normal data of this shape."""
    model = GaussianMixture(torch.zeros(1, *shape[1:], dtype=dtype), STD**2, sde=VP())
    x = sample(model, TorchSDE(steps=30), shape, seed=1)
    assert (x.shape, x.dtype) == (shape, dtype)
    close(x, 0.0, STD**2, bias=0.05)


def test_trajectory_and_denoised_end() -> None:
    model = gaussian(VP())
    path = sample(model, TorchSDE(steps=10, denoise=False), (3, 1), seed=1, trajectory=True)
    assert float(path.times[0]) == 1.0
    assert float(path.times[-1]) == pytest.approx(VP().eps, rel=1e-5)
    steps = VP().log_snr(path.times).diff()  # ten even ones, one state before and after each
    torch.testing.assert_close(steps, steps.mean().expand(10))
    assert (steps > 0).all() and len(path.states) == 11
    assert torch.equal(path.states[-1], path.x)
    stopped = sample(model, TorchSDE(steps=10, denoise=False), (3, 1), seed=1)
    torch.testing.assert_close(stopped, path.x)
    denoised = sample(model, TorchSDE(steps=10), (3, 1), seed=1)
    torch.testing.assert_close(denoised, model.denoise(stopped, torch.tensor(VP().eps).double()))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TorchSDE(method="midpoint"), "method"),
        (lambda: TorchSDE(method="rk45"), "method"),  # type: ignore[arg-type]
        (lambda: TorchSDE(steps=0), "steps"),
        (lambda: TorchSDE(clock="sigma"), "clock"),  # type: ignore[arg-type]
        (lambda: TorchSDE().solve(gaussian(VP()), torch.zeros(1, 1)), "noise"),
        (lambda: sample(LogNormalModel(), TorchSDE(clock="log_snr"), x_T=torch.ones(1, 1)), "clock"),
        (lambda: sample(gaussian(VP()), TorchSDE(stochasticity=-1.0), (1, 1)), "stochasticity"),
    ],
)
def test_what_makes_no_sense_is_named(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        make()
