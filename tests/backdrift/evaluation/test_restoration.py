"""Measurements in the data's own units, and the checks of posterior samples, against normal data in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.column_map import ColumnMap
from backdrift.data.transform import Transform
from backdrift.data.units import Units
from backdrift.evaluation.restoration import Problem, in_data_units, known_columns, problem, simulated
from backdrift.evaluation.restoration_checks import ChiSquared, coverages
from backdrift.evaluation.restoration_noise import PoissonNoise
from backdrift.evaluation.restoration_report import Restoration
from backdrift.models import Blur, GaussianMixture, Mask, Projection
from backdrift.sde import VP

SHIFT, SCALE = torch.tensor([1e6, -3.0, 0.0]).double(), torch.tensor([100.0, 0.1, 2.0]).double()

COVARIANCE = torch.tensor([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]]).double()


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(transform: Transform | None = None) -> DataCard:
    units = Units((3,), None, SHIFT, SCALE, -1.0, 1.0, transform)
    return DataCard("table", units, 100, 1.0, 0.0, 1.0, columns=("a", "b", "c"))


def levels(shape: tuple[int, ...] = (1, 4, 4)) -> DataCard:
    return DataCard("pictures", Units.of_levels(shape, 17), 100, 0.5, 0.0, 0.25)


def normal() -> GaussianMixture:
    """N(0, C) in the model's units, with strong correlations."""
    return GaussianMixture(torch.zeros(1, 3).double(), COVARIANCE.unsqueeze(0), sde=VP())


def test_the_posterior_in_the_units_of_the_data() -> None:
    """For v = scale x + shift normal, E[v | y] by the normal equations in the data's units. A shift of 10^6 is there.

    The measurement is handed to the model in float32, which allows 1e-6 of a standard deviation.
    """
    rows = torch.tensor([[1.0, 2.0, -1.0], [0.0, 30.0, 1.0]]).double()
    v = draws(5, 3) * SCALE + SHIFT
    task = simulated(v, table(), Projection(rows), [20.0, 0.5], seed=3)
    posterior = normal().given(task.measurement())
    found = posterior.means[:, 0] * SCALE + SHIFT
    c = SCALE.diag() @ COVARIANCE @ SCALE.diag()
    total = rows @ c @ rows.mT + torch.tensor([400.0, 0.25]).double().diag()
    expected = SHIFT + (task.observation - SHIFT @ rows.mT) @ torch.linalg.solve(total, rows @ c)
    torch.testing.assert_close((found - SHIFT) / SCALE, (expected - SHIFT) / SCALE, rtol=0, atol=1e-5)
    log_units = task.sizes.log().sum()
    evidence = normal().log_evidence(task.measurement()) - log_units
    law = torch.distributions.MultivariateNormal(SHIFT @ rows.mT, total)
    torch.testing.assert_close(evidence, law.log_prob(task.observation), rtol=0, atol=1e-4)


def test_what_is_measured_of_levels_is_centred() -> None:
    """v + u - 1/2 lies within half a level of v. A level's middle in the model's units is the level itself."""
    card = levels()
    values = torch.arange(16).reshape(1, 1, 4, 4)
    middle = (values + 0.5) * 2 / 17 - 1
    torch.testing.assert_close(in_data_units(card.units, middle), values.double(), rtol=0, atol=1e-6)
    task = simulated(values, card, Mask.half((1, 4, 4)), 0.01, seed=1)
    assert task.truth is not None and float((task.truth - values).abs().max()) <= 0.5
    assert float((task.truth - values).abs().max()) > 0.3
    # With the truth in the model's units the measurement's residual is the noise.
    x = ((task.truth + 0.5 - 8.5) / 8.5).float()
    residual = task.measurement().residual(x) * task.sizes.flatten()
    assert float((residual / 0.01).abs().max()) < 4 and float(residual.std()) == pytest.approx(0.01, rel=0.7)


def test_the_measurement_of_a_sample_does_not_depend_on_the_others() -> None:
    values = torch.arange(48).reshape(3, 1, 4, 4) % 17
    whole = simulated(values, levels(), Blur.gaussian((1, 4, 4), 1.0), 0.3, seed=1)
    alone = simulated(values[:1], levels(), Blur.gaussian((1, 4, 4), 1.0), 0.3, seed=1)
    torch.testing.assert_close(whole.observation[:1], alone.observation)


def test_residuals_of_the_truth_are_the_noise() -> None:
    """Chi-squared of the noise itself has m degrees of freedom; noise said to be 1.3 times as large is found out."""
    v = draws(200, 3) * SCALE + SHIFT
    task = simulated(v, table(), Projection(draws(2, 3)), 0.7, seed=5)
    sums = task.chi_squared(v)
    assert ChiSquared.of(float(sums.sum()), 400).p_value > 0.01
    assert ChiSquared.of(float(sums.sum()) / 1.3**2, 400).p_value < 1e-4
    assert ChiSquared.of(400.0, 400).p_value == pytest.approx(1, abs=0.05)


def test_counts_have_the_stated_chi_squared() -> None:
    """Mean and variance of Pearson's sum over 4,000 draws of counts with means of 0 to 50, to 4.5 standard errors.

    P-values below 0.05 are that frequent to 0.03, three standard errors of 500 draws, as the gamma law is not exact.
    """
    means, gain = torch.tensor([0.0, 0.02, 0.5, 3.0, 50.0, 8.0]).double().repeat(3), 2.5
    noise, n = PoissonNoise(gain), 4000
    mean = gain * means.expand(n, -1)
    y = noise.drawn(mean, seed=7)
    noise.require(y)
    assert torch.equal(y[:3], noise.drawn(mean[:3], seed=7))
    sums, test = noise.squares(y, mean), noise.test(y[:1], mean[:1])
    expected = 3 * (0.02 + 0.5 + 3.0)  # 0.02 and 0.5 are divided by 1, and 3, 50 and 8 by themselves
    assert test.expected == pytest.approx(expected, abs=1e-5)
    assert abs(float(sums.mean()) - test.expected) < 4.5 * test.standard_deviation / math.sqrt(n)
    away = (sums - test.expected).square()
    assert abs(float(away.mean()) - test.standard_deviation**2) < 4.5 * float(away.std()) / math.sqrt(n)
    p_values = [noise.test(y[k : k + 1], mean[:1]).p_value for k in range(500)]
    assert abs(sum(p < 0.05 for p in p_values) / 500 - 0.05) < 0.03
    assert noise.test(y, 1.1 * mean).p_value < 1e-6 and noise.test(y, mean).p_value > 0.001


def test_counts_of_pictures_are_measured_in_levels() -> None:
    """E[y] = A w over 600 draws of a blurred picture, within 4.5 standard errors.

    Given w in the model's units, the mean of what a guide is handed is that of y, in counts. Negative data are refused.
    """
    card, gain = levels(), 0.5
    values = torch.arange(16).reshape(1, 1, 4, 4).expand(600, 1, 4, 4)
    task = simulated(values, card, Blur.gaussian((1, 4, 4), 0.7), PoissonNoise(gain), seed=1)
    assert task.truth is not None
    mean = task.operator(task.truth).clamp(min=0)
    error = (task.observation - mean).mean(0) / (gain * mean.mean(0) / 600).sqrt()
    assert float(error.abs().max()) < 4.5
    x = ((task.truth + 0.5 - 8.5) / 8.5).float()
    seen = task.measurement()
    torch.testing.assert_close(seen.mean(x).double(), (task.operator(task.truth) / gain).flatten(1), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.value.double() * gain, task.observation)
    with pytest.raises(ValueError, match="noise=poisson: expected data whose measurements without noise are 0 or more"):
        simulated(draws(5, 3), table(), Mask.of_columns((3,), [1]), PoissonNoise(), seed=1)


@pytest.mark.parametrize("number", [3, 19, 40])
def test_intervals_of_the_exact_posterior_hold_the_truth_as_often_as_they_say(number: int) -> None:
    """Draws of the posterior of normal data and the truth behind each: 4.5 binomial standard errors."""
    n = 1500
    model = normal()
    v = model.sample(n, torch.Generator().manual_seed(2)).double() * SCALE + SHIFT
    task = simulated(v, table(), known_columns((3,), ["b"], ("a", "b", "c")), 0.05, seed=3)
    exact = model.given(task.measurement(number))
    generator = torch.Generator().manual_seed(1)
    normals = torch.randn(n * number, 3, generator=generator, dtype=torch.float64)
    assert exact.axes is not None and task.truth is not None
    root = exact.axes * exact.variances.clamp(min=0).sqrt().unsqueeze(-2)
    x = exact.means[:, 0] + normals @ root[0].mT
    found = Restoration.of(task, x.reshape(n, number, 3))
    assert {one.nominal for one in found.coverage} <= {1 - 2 * k / (number + 1) for k in range(1, number)}
    for one in found.coverage_hidden:
        assert abs(one.share - one.nominal) < 4.5 * math.sqrt(one.nominal * (1 - one.nominal) / n)
    assert found.chi_squared.p_value > 1e-3 and "agree with the noise" in found.verdict()
    assert found.error == pytest.approx(math.sqrt(float((found.mean - task.truth).square().mean())))
    # Residuals that are too large are found out, and what helps is said.
    noisy = Restoration.of(task, (x + 1.0).reshape(n, number, 3))
    assert noisy.chi_squared.p_value < 1e-6 and "solver=ancestral solver.grid=angle solver.steps=100" in noisy.verdict()
    # A posterior that is too narrow is found out.
    narrow = Restoration.of(task, (0.5 * x + 0.5 * exact.means[:, 0]).reshape(n, number, 3))
    assert narrow.coverage_hidden[-1].p_value < 1e-6 and "not what they should" in narrow.verdict()


def test_the_error_of_a_coverage_counts_samples_and_not_components() -> None:
    """All components of a sample are the same: its error is that of n samples, not of n times 50."""
    draws_, truth = draws(400, 19, 1).expand(400, 19, 50), draws(400, 1, seed=1).expand(400, 50)
    one = coverages(draws_, truth)[-1]
    assert one.standard_error == pytest.approx(math.sqrt(0.09 / 400), rel=0.4) and one.nominal == pytest.approx(0.9)
    assert math.isnan(coverages(draws_[:1], truth[:1])[0].standard_error)


def test_columns_with_a_nonlinear_map_are_refused_where_they_are_measured() -> None:
    maps = Transform((None, ColumnMap("heavy", 0.0, 1.0), None))
    card = table(maps)
    assert isinstance(problem(torch.zeros(1, 1), card, Mask.of_columns((3,), [0]), 1.0), Problem)
    with pytest.raises(ValueError, match=r"the run maps column 2 \('b'\) nonlinearly"):
        problem(torch.zeros(1, 1), card, Projection(torch.ones(1, 3)), 1.0)


def test_wrong_measurements_and_columns_are_refused() -> None:
    op = Projection(torch.ones(2, 3))
    for value, words in (
        (torch.zeros(4, 3), r"observation: expected shape \[n, 2\]"),
        (torch.full((1, 2), math.nan), "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            problem(value, table(), op, 1.0)
    with pytest.raises(ValueError, match="noise: expected a number, or one for each of 2"):
        problem(torch.zeros(1, 2), table(), op, [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"columns: expected some of \['a', 'b', 'c'\], got z"):
        known_columns((3,), ["z"], ("a", "b", "c"))
    assert known_columns((3,), [2, "a"], ("a", "b", "c")).indices.tolist() == [2, 0]


def test_samples_far_outside_the_range_are_told() -> None:
    """One of four samples has a pixel at three times the range; the others lie within it."""
    card = levels()
    task = simulated(torch.full((2, 1, 4, 4), 8), card, Mask.half((1, 4, 4)), 1.0, seed=1)
    x = 0.1 * draws(2, 2, 1, 4, 4)
    assert Restoration.of(task, x).strays == 0
    x[1, 0, 0, 3, 3] = -6.0
    found = Restoration.of(task, x)
    assert found.strays == 1 and "1 of 4 samples lie far outside the range of the data" in found.verdict()
