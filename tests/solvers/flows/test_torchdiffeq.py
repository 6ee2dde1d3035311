"""The probability flow solved by torchdiffeq, against exactly known flows, and its errors."""

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lognormal import LogNormal, LogNormalModel
from recorded import Recorded
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, CosineVP, FunctionModel, GaussianSDE, Rectified
from backdrift.solvers import Adaptive, TorchDiffEq, sample
from backdrift.solvers.flows.torchdiffeq_solver import ADAPTIVE
from backdrift.solvers.tables.order import TwoModes

pytest.importorskip("torchdiffeq")
PROCESSES = [VP(), CosineVP(), VE(), Rectified()]


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_error_falls_with_the_tolerance(sde: GaussianSDE) -> None:
    modes = TwoModes(sde)
    x = sde.prior.std * torch.linspace(-2.2, 2.1, 16, dtype=torch.float64).unsqueeze(1)
    exact = modes.flow(x, sde.T, sde.eps)
    for tolerance in (1e-4, 1e-6):
        solver = TorchDiffEq(rtol=tolerance, atol=tolerance, denoise=False, data_std=1.0)
        assert float((solver.solve(modes, x) - exact).abs().max()) < 100 * tolerance


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)])
def test_order_on_the_fixed_grid(method: Any, order: int) -> None:
    sde, errors, counts = VP(), [], (100, 200)
    modes = TwoModes(sde)
    x = torch.linspace(-2.2, 2.1, 16, dtype=torch.float64).unsqueeze(1)
    exact = modes.flow(x, sde.T, sde.eps)
    for steps in counts:
        ends = TorchDiffEq(method=method, steps=steps, denoise=False, data_std=1.0).solve(modes, x)
        errors.append(float((ends - exact).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_a_process_that_is_not_gaussian(method: Any) -> None:
    """The flow in x and t keeps the quantiles of the normal y."""
    sde, model = LogNormal(), LogNormalModel()
    (mean_T, var_T), (mean, variance) = sde.moments(1.0), sde.moments(0.0)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    x_T, exact = (mean_T + math.sqrt(var_T) * z).exp(), (mean + math.sqrt(variance) * z).exp()
    torch.testing.assert_close(
        sample(model, TorchDiffEq(method=method, rtol=1e-6, atol=1e-6), x_T=x_T), exact, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4"])
def test_never_leaves_the_interval(method: Any, dtype: torch.dtype) -> None:
    for sde in PROCESSES:
        modes = TwoModes(sde)
        model = Recorded(modes)
        x = sde.prior.std * torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=dtype).clamp(-2, 2)
        end = TorchDiffEq(method=method, rtol=1e-2, atol=1e-2).solve(model, x)
        times, ends = torch.stack(model.times), torch.tensor([sde.eps, sde.T], dtype=dtype)
        exact = modes.flow(x.double(), sde.T, sde.eps)
        assert end.dtype == dtype and float((end - exact).abs().max()) < 1
        assert float(times.min()) >= float(ends[0]) and float(times.max()) <= float(ends[1])


def test_a_step_ends_at_eps() -> None:
    """A denoiser that jumps below eps has no effect, since no step passes eps and comes back by interpolation."""
    sde = VP()
    modes, x = TwoModes(sde), torch.linspace(-2, 2, 5, dtype=torch.float64).unsqueeze(1)
    solver = TorchDiffEq(rtol=1e-3, atol=1e-3, denoise=False, data_std=1.0)
    model = Recorded(modes)
    solver.solve(model, x)
    asked = [float(t) for t in model.times]
    assert asked[-1] == pytest.approx(sde.eps, rel=1e-9)
    assert asked.count(asked[-1]) <= 2  # the last two stages of the one step that ends there


def test_same_flow_as_adaptive() -> None:
    means = torch.randn(6, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = GaussianMixture(means, 0.05, sde=VP())
    shaped = FunctionModel(lambda x, t: model.denoise(x.flatten(1), t).reshape(x.shape), VP())
    x = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours, theirs = (solver(rtol=1e-7, atol=1e-7, denoise=False).solve(shaped, x) for solver in (Adaptive, TorchDiffEq))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    path = sample(shaped, TorchDiffEq(), x_T=x, trajectory=True)
    assert torch.equal(path.states[-1], path.x)
    assert path.times[[0, -2, -1]].tolist() == pytest.approx([VP().T, VP().eps, 0.0])


def test_an_underflow_names_the_time() -> None:
    sde = VP()

    def broken(x: Tensor, t: Any) -> Tensor:
        return torch.where(sde.sigma(t) / sde.alpha(t) < 0.1, torch.nan, 0.5 * x)

    with pytest.raises(RuntimeError, match=r"^torchdiffeq: .* last asked at t = 0\.\d+; "):
        TorchDiffEq().solve(FunctionModel(broken, sde), torch.ones(3, 2, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"^torchdiffeq: max_num_steps"):
        TorchDiffEq(max_steps=2).solve(TwoModes(sde), torch.ones(3, 1, dtype=torch.float64))


def test_without_torchdiffeq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(
        ImportError, match=r"^torchdiffeq is not installed: `pip install torchdiffeq`, or use .*Adaptive"
    ):
        TorchDiffEq().solve(TwoModes(VP()), torch.ones(1, 1))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TorchDiffEq(method="rk45"), "method"),  # type: ignore[arg-type]
        (lambda: TorchDiffEq(rtol=0), "rtol"),
        (lambda: TorchDiffEq(atol=-1e-3), "atol"),
        (lambda: TorchDiffEq(steps=0), "steps"),
        (lambda: TorchDiffEq(max_steps=0), "max_steps"),
        (lambda: TorchDiffEq(eps=1.0).solve(TwoModes(VP()), torch.ones(1, 1)), "eps"),
    ],
)
def test_what_makes_no_sense_is_named(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        make()
