"""Solves that begin below T, for networks that predict the noise, on a mixture whose noise is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture, Guided
from backdrift.sde import VE, VP, FunctionModel, GaussianSDE
from backdrift.solvers import DDIM, Adams, Heun, Restart, TableSolver, UniPC, sample
from backdrift.solvers.tables.lower_begin import BEGIN_RATIO, lower_begin
from backdrift.solvers.tables.table import execute

MEANS = torch.tensor([[-1.0, 0.5, 0.0, 0.2], [1.0, 0.0, -0.5, 0.3]], dtype=torch.float64)


def network(sde: GaussianSDE, error: float = 0.0, predicts: str = "noise") -> FunctionModel:
    """A network whose noise is off by waves of this height, as that of a trained one is."""
    mixture = GaussianMixture(MEANS, 0.3, sde=sde)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        return mixture.noise(x, t) + error * torch.cos(20 * x + torch.arange(4))

    def denoised(x: Tensor, t: Tensor) -> Tensor:
        return mixture.denoise(x, t)

    function = noise if predicts == "noise" else denoised
    return FunctionModel(function, sde, predicts, data_std=mixture.data_std)  # type: ignore[arg-type]


def start(sde: GaussianSDE, n: int = 128) -> Tensor:
    return sde.prior.std * torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sde", [VP(), VE()], ids=["VP", "VE"])
@pytest.mark.parametrize(
    ("solver", "times_nearer"), [(Adams(steps=5), 3.0), (Heun(steps=5), 1.8), (UniPC(steps=5), 3.0)], ids=str
)
def test_few_steps_end_nearer_to_the_exact_flow(solver: TableSolver, times_nearer: float, sde: GaussianSDE) -> None:
    """sigma/alpha at T is 150 for VP and 80 for VE, and the denoiser errs by as many times 0.02."""
    model, x = network(sde, 0.02), start(sde)
    exact = sample(model, Adams(steps=200, begin="T"), x_T=x)

    def far(solver: TableSolver) -> float:
        return float((sample(model, solver, x_T=x) - exact).square().mean(1).sqrt().median())

    assert far(dataclasses.replace(solver, begin="T")) > times_nearer * far(solver)


@pytest.mark.parametrize("solver", [Adams(steps=6), Adams(steps=6, predict="noise", order=3), Heun(steps=6)], ids=str)
def test_the_way_from_T_is_the_flow_of_a_constant_denoiser(solver: TableSolver) -> None:
    """x' = z + alpha' (1 - r'/r_T) D(z, t') with z = sigma'/sigma_T x, and from x' on the solver, which is given D."""
    sde, model = VP(), network(VP())
    x, d = start(sde, 8), model.data_std
    first = lower_begin(sde, 6, d)
    ratio, at_T = (float(sde.sigma(t) / sde.alpha(t)) for t in (first, sde.T))
    assert ratio == pytest.approx(BEGIN_RATIO * 6 * d)
    seen = x * float(sde.sigma(first) / sde.sigma(sde.T))
    denoised = model.denoise(seen, torch.tensor(first, dtype=torch.float64))
    begun = seen + float(sde.alpha(first)) * (1 - ratio / at_T) * denoised
    own = dataclasses.replace(solver, begin="lower", data_std=d)
    table = dataclasses.replace(own, begin="T").table(sde, own.times(sde))
    answers = [denoised]
    expected = execute(table, lambda x, t: answers.pop() if answers else model.denoise(x, t), begun)
    torch.testing.assert_close(sample(model, solver, x_T=x), expected, rtol=1e-9, atol=1e-9)


def test_a_normal_density_of_no_width_is_carried_exactly() -> None:
    """Its denoiser is constant, so that the way from T is exact: every sample ends at the mean."""
    sde, mean = VP(), torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    noise = FunctionModel(lambda x, t: (x - sde.alpha(t) * mean) / sde.sigma(t), sde, "noise")
    x = start(sde, 4)
    record = sample(noise, DDIM(steps=4, begin="lower"), x_T=x, trajectory=True)
    torch.testing.assert_close(record.x, mean.expand(4, 4), rtol=0, atol=1e-10)
    for t, state in zip(record.times.tolist()[:-1], record.states, strict=False):
        exact = sde.alpha(t) * mean + float(sde.sigma(t) / sde.sigma(sde.T)) * (x - sde.alpha(sde.T) * mean)
        torch.testing.assert_close(state, exact, rtol=0, atol=1e-8)
    assert len(record.times) == 5 and record.times[0] == sde.T  # as without: each step once


def test_only_networks_that_predict_the_noise_begin_lower_by_default() -> None:
    x, solver = start(VP(), 4), Adams(steps=5)
    at_T, lower = (dataclasses.replace(solver, begin=begin) for begin in ("T", "lower"))
    for model, chosen in (
        (network(VP()), lower),
        (network(VP(), predicts="denoised"), at_T),
        (Guided(network(VP()), network(VP()), 2.0), lower),
        (GaussianMixture(MEANS, 0.3, sde=VP()), at_T),
    ):
        assert torch.equal(sample(model, solver, x_T=x), sample(model, chosen, x_T=x))
        assert not torch.equal(sample(model, at_T, x_T=x), sample(model, lower, x_T=x))
    # A list is kept as it is, and many steps begin at T.
    grid = Adams(steps=3, grid=[0.8, 0.3])
    assert grid.for_model(network(VP())).begin == "T" and lower_begin(VP(), 1000, 0.5) == VP().T


def test_it_costs_no_evaluation_and_other_solvers_take_it() -> None:
    model = network(VP(), 0.02)
    for solver in (Adams(steps=6), Heun(steps=6), Restart(steps=12)):
        own = solver.for_model(model)
        assert own.begin == "lower" and own.table(model.sde).nfe == solver.table(model.sde).nfe


def test_a_list_of_one_time_is_kept_or_refused() -> None:
    sde = VP()
    model, x = GaussianMixture(MEANS, 0.3, sde=sde), start(sde, 4)
    at = torch.tensor(0.4, dtype=torch.float64)
    one = sample(model, DDIM(steps=1, grid=[0.4]), x_T=x)
    torch.testing.assert_close(one, model.denoise(x, at))
    for grid, message in (([0.4, 0.2], "expected 1 time"), ([1.4], "fall from T = 1"), ([0.0], "sigma above 0")):
        with pytest.raises(ValueError, match=rf"^grid: .*{message}"):
            sample(model, DDIM(steps=1, grid=grid), x_T=x)
