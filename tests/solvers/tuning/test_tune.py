"""A fitted solver is closer to the exact flow than the one it started from, on samples that it was not fitted on."""

import dataclasses
from typing import Any

import pytest
import torch

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, Discrete, FunctionModel, GaussianSDE, OrnsteinUhlenbeck, Time
from backdrift.solvers import (
    Adams,
    DPMSolverPP2M,
    EulerMaruyama,
    Heun,
    NonStationary,
    Points,
    RungeKutta,
    TableSolver,
    execute,
    tune,
)
from backdrift.solvers.tables.non_stationary import canonical
from backdrift.solvers.tuning.around import Around
from backdrift.solvers.tuning.reference import differentiably


def modes(sde: GaussianSDE) -> GaussianMixture:
    generator = torch.Generator().manual_seed(11)
    return GaussianMixture(torch.randn(8, 2, generator=generator, dtype=torch.float64), 0.02, sde=sde)


def test_tuning_brings_held_out_samples_closer_by_half() -> None:
    """The factor is at least 1.5, which is what the package claims."""
    tuned = tune(modes(VE()), nfe=6, shape=(2,), reference_steps=96)
    assert tuned.after < tuned.before / 1.5
    assert tuned.solver.table(VE()).nfe == 6
    assert "6 NFE" in str(tuned)


OU = OrnsteinUhlenbeck()


class OfTwoFunctions(GaussianSDE):
    """`OU`, of which only alpha and sigma are given."""

    T = OU.T

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return (-t).exp()

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        return (-torch.expm1(-2 * t)).sqrt()


def test_a_process_of_two_functions_is_tuned_as_its_closed_form_is() -> None:
    settings: dict[str, Any] = {"nfe": 2, "shape": (2,), "batch": 2, "iterations": 1, "reference_steps": 2}
    own, closed = (tune(modes(sde), Heun(steps=1), **settings).solver for sde in (OfTwoFunctions(), OU))
    assert isinstance(own, Heun) and isinstance(closed, Heun)
    assert own.grid == pytest.approx(closed.grid, rel=1e-6)


@pytest.mark.parametrize(
    "solver", [Adams(steps=5), DPMSolverPP2M(steps=5), Heun(steps=3), RungeKutta(steps=2)], ids=str
)
def test_every_table_is_a_non_stationary_one(solver: TableSolver) -> None:
    """The coefficients of the table alone give the same samples to rounding, and with another process too."""
    model = modes(VP())
    table = solver.for_model(model).table(model.sde).numbers()
    points = Points(model.sde, torch.tensor([row.at for row in table.rows if row.at is not None], dtype=torch.float64))
    carries, weights = canonical(table, points)
    numbers = NonStationary(
        ratios=points.ratio.tolist(),
        carries=carries.tolist(),
        weights=[row[: k + 1].flip(0).tolist() for k, row in enumerate(weights)],
    )
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = solver.solve(model, x)
    torch.testing.assert_close(numbers.solve(model, x), expected, rtol=1e-9, atol=1e-9)
    ve = VE(sigma_max=float(points.ratio[0]))
    torch.testing.assert_close(numbers.solve(model.under(ve), x / points.alpha[0]), expected, rtol=1e-9, atol=1e-9)


def erring(size: float) -> FunctionModel:
    """A network that predicts the noise, with an error of this size, as a trained one has."""
    sde = Discrete.linear()
    model = modes(VP()).under(sde)

    def noise(x: torch.Tensor, t: Time) -> torch.Tensor:
        return model.noise(x, t) + size * torch.cos(20 * x)

    return FunctionModel(noise, sde, "noise", data_std=1.0)


@pytest.mark.parametrize("solver", [Adams(steps=5), Adams(steps=5, predict="noise")], ids=str)
def test_a_non_stationary_one_begins_below_T_as_its_solver_does(solver: TableSolver) -> None:
    model = erring(0.0)
    begun = solver.for_model(model)
    assert begun.begin == "lower"
    points = Points(model.sde, begun.times(model.sde))
    carries, weights = canonical(dataclasses.replace(begun, begin="T").table(model.sde, points.t), points)
    rows = [row[: k + 1].flip(0).tolist() for k, row in enumerate(weights)]
    numbers = NonStationary(ratios=points.ratio.tolist(), carries=carries.tolist(), weights=rows, begin="lower")
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(numbers.solve(model, x), solver.solve(model, x), rtol=1e-7, atol=1e-7)
    with pytest.raises(ValueError, match=r"^ratios: this solver begins at sigma/alpha = 20, the process at 157"):
        dataclasses.replace(numbers, begin="T").table(model.sde)
    with pytest.raises(ValueError, match=r"^ratios: this solver begins at sigma/alpha = 20, the process at 9.9"):
        numbers.table(VE(sigma_max=9.9))


@pytest.mark.parametrize("weights", [True, False])
def test_a_fit_begins_where_its_solver_does(weights: bool) -> None:
    """From T the error of the noise, 0.02, is 157 times as large in the denoiser, and no weights mend it."""
    settings: dict[str, Any] = {"nfe": 5, "shape": (2,), "batch": 32, "iterations": 10, "reference_steps": 48}
    lower = tune(erring(0.02), Adams(), weights=weights, **settings)
    from_T = tune(erring(0.02), Adams(begin="T"), weights=weights, **settings)
    assert lower.start.begin == lower.solver.begin == "lower" and from_T.solver.begin == "T"
    assert lower.after < lower.before and lower.after < from_T.after
    assert lower.solver.table(Discrete.linear()).nfe == 5


def test_non_stationary_numbers_must_fit() -> None:
    good = NonStationary(ratios=[10.0, 1.0], carries=[0.1, 0.0], weights=[[0.9], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"^ratios: "):
        dataclasses.replace(good, ratios=[1.0, 10.0])
    with pytest.raises(ValueError, match=r"^carries: "):
        dataclasses.replace(good, carries=[0.1])
    with pytest.raises(ValueError, match=r"^weights: "):
        dataclasses.replace(good, weights=[[0.9], [1.0]])
    with pytest.raises(ValueError, match="begins at sigma/alpha = 10"):
        good.table(VE())


def test_samples_move_along_with_the_data() -> None:
    """The fit keeps carry + sum of weights = 1 in every step, so a shift of the data by m shifts the samples by m."""
    model = modes(VE())
    tuned = tune(model, Adams(), 5, shape=(2,), weights=True, batch=32, iterations=20, reference_steps=48)
    assert isinstance(tuned.solver, NonStationary)
    assert tuned.after < tuned.before
    x, m = 80 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 3.0
    moved = GaussianMixture(model.means + m, 0.02, sde=VE())
    torch.testing.assert_close(tuned.solver.solve(moved, x + m), tuned.solver.solve(model, x) + m, rtol=1e-9, atol=1e-9)


def test_tuning_a_given_solver_keeps_it() -> None:
    tuned = tune(modes(VP()), Heun(), nfe=9, shape=(2,), batch=64, iterations=30, reference_steps=96)
    assert isinstance(tuned.solver, Heun) and tuned.after < tuned.before
    assert tuned.solver.table(VP()).nfe <= 9


def test_gradient_through_the_table_is_that_of_its_numbers() -> None:
    """d(end)/d(time) by autograd agrees with finite differences of `execute`."""
    sde, model = VP(), modes(VP())
    solver = Adams(order=3, predict="velocity", steps=6, final="half_step").for_model(model)
    times = solver.times(sde).requires_grad_()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = differentiably(solver.table(sde, times), model.denoise, x)
    torch.testing.assert_close(end.detach(), execute(solver.table(sde, times.detach()), model.denoise, x))
    (gradient,) = torch.autograd.grad(end.sum(), times)
    for k in (1, 3, 5):
        h = 1e-6 * times[k].item()
        moved = [times.detach().clone() for _ in range(2)]
        moved[0][k] -= h
        moved[1][k] += h
        low, high = (float(execute(solver.table(sde, m), model.denoise, x).sum()) for m in moved)
        assert float(gradient[k]) == pytest.approx((high - low) / (2 * h), rel=1e-4, abs=1e-6)


def test_first_order_steps_at_other_times_stay_first_order_steps() -> None:
    """Their carries are the ratios of sigma/alpha, so that a fit changes the times and leaves the order as it is."""
    sde, steps = VP(), torch.tensor([1.5, 2.0, 3.0]).double()
    carries = torch.cat([(-0.5 * steps).exp(), torch.zeros(1).double()])
    around = Around(sde, float(sde.log_snr(sde.T)), steps.log(), carries, torch.diag(1 - carries))
    _, free_carries, free_weights = around.origin()
    moved = torch.tensor([0.2, -0.3, 0.1]).double()
    times, carry, weights = around.numbers(moved, free_carries, free_weights)
    ratios = (-0.5 * sde.log_snr(times)).exp()
    torch.testing.assert_close(carry[:-1], ratios[1:] / ratios[:-1])
    torch.testing.assert_close(weights, torch.diag(1 - carry))


def test_stochastic_solvers_are_refused() -> None:
    with pytest.raises(ValueError, match="solver: expected a deterministic one, got EulerMaruyama"):
        tune(modes(VP()), EulerMaruyama(), shape=(2,))


def test_weights_of_several_evaluations_a_step_are_not_fitted() -> None:
    with pytest.raises(ValueError, match="weights: expected a solver with one evaluation a step, got Heun"):
        tune(modes(VP()), Heun(), shape=(2,), weights=True)


def test_no_step_for_no_money() -> None:
    with pytest.raises(ValueError, match="nfe"):
        tune(modes(VP()), Heun(final="stop"), nfe=1, shape=(2,))


def test_the_cost_of_a_fit_is_what_it_evaluates_for_a_trajectory() -> None:
    """The reference, the start once, and in each iteration the solver with a backward pass, which counts as two.

    Heun's method has 7 evaluations where 8 are asked for.
    """
    calls: list[tuple[int, bool]] = []

    class Counted(GaussianMixture):
        def denoise(self, x: torch.Tensor, t: Time) -> torch.Tensor:
            calls.append((len(x), torch.is_grad_enabled()))
            return super().denoise(x, t)

    model = Counted(torch.zeros(1, 2), 0.5, sde=VP())
    tuned = tune(model, Heun(), nfe=8, shape=(2,), batch=2, reference_steps=4, iterations=3)
    reference = sum(1 for n, _ in calls if n == 6)
    fitting = sum(1 for _, differentiated in calls if differentiated)
    assert tuned.nfe == tuned.solver.table(VP()).nfe == 7
    assert fitting == 3 * 7
    assert tuned.cost == reference + 7 + 3 * fitting
