"""A tuned grid is closer to the exact flow than the grid it began with, on samples it has not seen."""

import pytest
import torch

from models import GaussianMixture
from sde import VE, VP
from solvers import Adams, EulerMaruyama, Heun, tune
from solvers.table import execute
from solvers.tune import differentiably


def modes(sde) -> GaussianMixture:
    generator = torch.Generator().manual_seed(11)
    return GaussianMixture(torch.randn(8, 2, generator=generator, dtype=torch.float64), 0.02, sde=sde)


def test_tuning_brings_held_out_samples_closer_by_half() -> None:
    """A factor of 1.5 at least, the least that the package claims of it."""
    tuned = tune(modes(VE()), nfe=6, shape=(2,), reference_steps=96)
    assert tuned.after < tuned.before / 1.5
    assert tuned.solver.table(VE()).nfe == 6
    assert "6 NFE" in str(tuned)


def test_tuning_a_given_solver_keeps_it() -> None:
    tuned = tune(modes(VP()), Heun(), nfe=9, shape=(2,), batch=64, iterations=30, reference_steps=96)
    assert isinstance(tuned.solver, Heun) and tuned.after < tuned.before
    assert tuned.solver.table(VP()).nfe <= 9


def test_gradient_through_the_table_is_that_of_its_numbers() -> None:
    """d(end)/d(time) by autograd and by finite differences of `execute`."""
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


def test_stochastic_solvers_are_refused() -> None:
    with pytest.raises(ValueError, match="solver: expected a deterministic one, got EulerMaruyama"):
        tune(modes(VP()), EulerMaruyama(), shape=(2,))


def test_no_step_for_no_money() -> None:
    with pytest.raises(ValueError, match="nfe"):
        tune(modes(VP()), Heun(final="stop"), nfe=1, shape=(2,))
