"""The probability flow solved by scipy, against exactly known flows."""

import math
from collections.abc import Callable

import pytest
import torch
from lognormal import LogNormalModel
from recorded import Recorded
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, Brownian, CosineVP, FunctionModel, GaussianSDE, OrnsteinUhlenbeck, Rectified, SubVP
from backdrift.solvers import ScipyODE, sample
from backdrift.solvers.flows.scipy_solver import Method
from backdrift.solvers.tables.order import TwoModes

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Brownian(), Rectified(), OrnsteinUhlenbeck(std=2.0)]
MEAN, STD = 0.7, 0.6


def gaussian(sde: GaussianSDE) -> GaussianMixture:
    return GaussianMixture(torch.full((1, 2), MEAN).double(), STD**2, sde=sde)


def exact(sde: GaussianSDE, x: Tensor, t: float) -> Tensor:
    """The exact flow of normal data, x_t = m_t + sqrt(V_t/V_T) (x_T - m_T)."""
    (mean_T, var_T), (mean, variance) = (
        (sde.alpha(s) * MEAN, (sde.alpha(s) * STD).square() + sde.sigma(s).square()) for s in (sde.T, t)
    )
    return mean + (variance / var_T).sqrt() * (x - mean_T)


def starts(sde: GaussianSDE, n: int = 3) -> Tensor:
    return sde.prior.std * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_flow_of_a_gaussian(sde: GaussianSDE) -> None:
    x_T = starts(sde)
    x = sample(gaussian(sde), ScipyODE(rtol=1e-8, atol=1e-8, denoise=False), x_T=x_T)
    torch.testing.assert_close(x, exact(sde, x_T, sde.eps), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["RK45", "RK23", "DOP853", "LSODA", "Radau", "BDF"])
def test_every_method(method: Method) -> None:
    sde = VP()
    solver = ScipyODE(method=method, rtol=1e-6, atol=1e-6, denoise=False, eps=1e-3)
    x_T = starts(sde, 2)
    torch.testing.assert_close(sample(gaussian(sde), solver, x_T=x_T), exact(sde, x_T, 1e-3), rtol=1e-3, atol=1e-3)


def test_flow_of_two_modes_converges_with_the_tolerance() -> None:
    sde = VP()
    modes = TwoModes(sde)
    x_T = torch.linspace(-2, 2, 6, dtype=torch.float64).unsqueeze(1)
    truth = modes.flow(x_T, sde.T, 0.01)
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        solver = ScipyODE(rtol=tolerance, atol=tolerance, eps=0.01, denoise=False)
        errors.append(float((sample(modes, solver, x_T=x_T) - truth).abs().max()))
        assert errors[-1] < 100 * tolerance
    assert errors[0] > 100 * errors[2]


def test_flow_of_a_process_that_is_not_gaussian() -> None:
    """A process with state-dependent noise, against the exact quantile map of the logarithm."""
    model = LogNormalModel()
    (mean_T, var_T), (mean, variance) = model.sde.moments(1.0), model.sde.moments(0.0)
    y_T = mean_T + math.sqrt(var_T) * torch.tensor([[-1.5, 0.3], [0.0, 2.0]], dtype=torch.float64)
    x = sample(model, ScipyODE(rtol=1e-9, atol=1e-11), x_T=y_T.exp())
    torch.testing.assert_close(x.log(), mean + math.sqrt(variance / var_T) * (y_T - mean_T), rtol=1e-6, atol=1e-6)


def test_ends_with_a_denoised_sample_where_asked() -> None:
    model = gaussian(VP())
    x_T = starts(VP())
    stopped = sample(model, ScipyODE(denoise=False), x_T=x_T)
    expected = model.denoise(stopped, torch.tensor(VP().eps).double())
    torch.testing.assert_close(sample(model, ScipyODE(), x_T=x_T), expected)


def test_a_sample_does_not_know_its_neighbours() -> None:
    model = GaussianMixture(torch.tensor([[1.0, -1.0], [-1.0, 0.5]]).double(), 0.1, sde=VP())
    batch = sample(model, ScipyODE(), (5, 2), seed=1)
    for i in range(5):
        torch.testing.assert_close(
            sample(model, ScipyODE(), (1, 2), seed=1, first=i)[0], batch[i], rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("method", ["RK45", "Radau"])
def test_never_asked_outside_the_interval(method: Method) -> None:
    model = Recorded(TwoModes(VP()))
    sample(model, ScipyODE(method=method, eps=0.01), x_T=torch.ones(1, 1).double())
    asked = [float(t) for t in model.times]
    assert min(asked) == pytest.approx(0.01)
    assert max(asked) == 1.0


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (2, 4), (2, 2, 3, 2)])
def test_any_shape_and_float32(shape: tuple[int, ...]) -> None:
    sde: GaussianSDE = VP()
    model = GaussianMixture(torch.zeros(1, *shape[1:]), STD**2, sde=sde)
    x_T = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    x = sample(model, ScipyODE(denoise=False), x_T=x_T)
    end, start = ((sde.alpha(t) * STD).square() + sde.sigma(t).square() for t in (sde.eps, sde.T))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, float((end / start).sqrt()) * x_T, rtol=1e-3, atol=1e-3)


def test_gives_up_where_told_to() -> None:
    """A rough score needs smaller and smaller steps. The limit ends the solve, and the error names sample and time."""
    rough = FunctionModel(lambda x, t: torch.sin(1e6 * x) - x, VP(), predicts="score")
    stuck = r"sample 0 is stuck at t = [0-9.e-]+: it has not arrived after max_steps=50 steps"
    with pytest.raises(RuntimeError, match=stuck):
        sample(rough, ScipyODE(max_steps=50), x_T=starts(VP(), 1))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ScipyODE(method="Euler"), "method"),  # type: ignore[arg-type]
        (lambda: ScipyODE(rtol=0.0), "rtol"),
        (lambda: ScipyODE(atol=-1.0), "atol"),
    ],
)
def test_what_makes_no_sense_is_named(make: Callable[[], ScipyODE], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        make()
