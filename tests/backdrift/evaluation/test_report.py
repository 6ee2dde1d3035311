"""The report's numbers against closed forms: a mixture as the model, data drawn from it."""

import math

import pytest
import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.data.views import readable, readable_data
from backdrift.evaluation import solver_comparison, workload
from backdrift.evaluation.sampling import draw
from backdrift.evaluation.scoring import score
from backdrift.models import GaussianMixture
from backdrift.sde import VP
from backdrift.solvers import DDIM, Ancestral, Heun


def mixture() -> GaussianMixture:
    """Two Gaussians in the plane, in units of which one is a hundred times the other."""
    means = torch.tensor([[-1.0, 300.0], [1.5, 500.0]], dtype=torch.float64)
    variances = torch.tensor([[0.3, 900.0], [0.1, 2500.0]], dtype=torch.float64)
    return GaussianMixture(means, variances)


def data_of(truth: GaussianMixture, n: int = 1500) -> Data:
    return Data(
        truth.sample(n, torch.Generator().manual_seed(0)),
        truth.sample(400, torch.Generator().manual_seed(1)),
        name="two",
    )


def seen_by_the_model(truth: GaussianMixture, data: Data) -> GaussianMixture:
    """The density of x = (v - shift)/scale."""
    means = (truth.means - data.units.shift) / data.units.scale
    return GaussianMixture(means, truth.variances / data.units.scale**2, truth.log_weights.exp(), sde=VP())


def test_scores_are_in_the_units_of_the_data() -> None:
    truth = mixture()
    data = data_of(truth)
    scores = score(seen_by_the_model(truth, data), data.units, data.test, probes="exact", steps=24)
    error = (scores.log_prob - truth.log_prob(data.test)).abs()
    assert scores.unit == "nats"
    assert (error < 0.01 + 2 * scores.solver_error).all()
    assert scores.mean().standard_error == pytest.approx(float(truth.log_prob(data.test).std()) / 20, rel=0.01)


def test_scores_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = mixture()
    data = data_of(truth)
    model = seen_by_the_model(truth, data)
    whole = score(model, data.units, data.test[:10], probes=1, steps=4)
    monkeypatch.setattr("backdrift.evaluation.batchwise.BATCH", 3)
    parts = score(model, data.units, data.test[:10], probes=1, steps=4)
    torch.testing.assert_close(parts.log_prob, whole.log_prob, rtol=1e-9, atol=1e-6)


def levels(n: int, seed: int, count: int, mean: float, std: float) -> Tensor:
    """Normal numbers rounded down to levels 0..count-1 (the tails are far outside)."""
    v = mean + std * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return v.floor().clamp(0, count - 1)


def test_bits_per_dim_bound_the_probability_of_the_levels() -> None:
    count, mean, std = 16, 7.3, 1.5
    data = Data(levels(500, 0, count, mean, std), levels(300, 1, count, mean, std), levels=count, name="levels")
    x_mean, x_std = mean * 2 / count - 1, std * 2 / count
    model = GaussianMixture(torch.full((1, 1, 2, 2), x_mean), x_std**2, sde=VP())
    scores = score(model, data.units, data.test, probes="exact", steps=12)
    # The probability of level k is the mass between k and k + 1.
    edges = (torch.arange(count + 1, dtype=torch.float64) - mean) / std / math.sqrt(2)
    bits = -(0.5 * torch.erf(edges).diff()).log2()
    exact = bits[data.test.long()].flatten(1).mean(1)
    excess = scores.values - exact
    assert scores.unit == "bits/dim"
    assert excess.mean() > -4 * excess.std() / math.sqrt(len(excess))
    # Jensen's gap of a normal density in bins of width h: its slope squared, E[z^2] h^2/(24 std^2) nats.
    gap = 1 / (24 * std**2) / math.log(2)
    assert abs(excess.mean() - gap) < 4 * excess.std() / math.sqrt(len(excess)) + 0.2 * gap


def test_a_perfect_model_is_as_near_as_the_training_set_and_few_steps_are_not() -> None:
    truth = mixture()
    data = data_of(truth)
    model = seen_by_the_model(truth, data)
    floor, table = solver_comparison.compare(model, data, 400, (Heun(), Ancestral()))
    for found in (floor, table["Heun", 50]):
        assert found.mmd is not None
        assert abs(found.mmd.value) < 4 * found.mmd.standard_error
    few, many = table["Heun", 10].mmd, table["Heun", 50].mmd
    assert few is not None and many is not None
    assert few.value - many.value > 4 * few.standard_error


def test_samples_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = mixture()
    data = data_of(truth)
    model = seen_by_the_model(truth, data)
    for solver in (DDIM(steps=5), Ancestral(steps=5)):
        whole = draw(model, solver, (2,), 10, seed=3)
        monkeypatch.setattr("backdrift.evaluation.batchwise.BATCH", 4)
        torch.testing.assert_close(draw(model, solver, (2,), 10, seed=3), whole, rtol=1e-9, atol=1e-9)
        monkeypatch.undo()


def test_broken_samples_are_said_to_be_broken() -> None:
    test = torch.randn(50, 2)
    found = solver_comparison.distances(torch.full((50, 2), math.nan), test)
    good = solver_comparison.distances(test + 1, test)
    text = solver_comparison.section(
        data_of(mixture()), 50, good, {("Bad", nfe): found for nfe in solver_comparison.BUDGETS}
    )
    assert text.count("| Bad | not finite | not finite | not finite |") == 2


def test_the_work_paid_for_is_counted_in_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    class Linear(torch.nn.Linear):
        sde = VP()

        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            return self(x)

    # 2 * 100 * 100 operations an evaluation
    monkeypatch.setattr(workload, "WORK", 2e4 * 50 * 300)
    assert workload.affordable(Linear(100, 100), (100,), evaluations=50) == 300
    assert workload.affordable(Linear(100, 100), (100,), evaluations=50, share=0.5) == 150


def test_real_pictures_keep_their_levels() -> None:
    values = torch.arange(17).repeat(4).reshape(-1, 1, 2, 2)
    data = Data(values, values, levels=17, name="digits")
    assert torch.equal(readable_data(data.units, values), values / 16)
    assert torch.equal(readable(data.units, data.to_model(values)), values / 16)
