"""`ScoreDensity` against densities that are known, and its manners."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from backdrift import ScoreDensity
from backdrift.models import GaussianMixture
from backdrift.sde import Rectified
from backdrift.solvers import log_likelihood

QUICK: dict[str, Any] = {"members": 1, "hidden": 16, "depth": 1, "steps": 60, "ode_steps": 8, "random_state": 0}


def gaussian() -> GaussianMixture:
    """Correlated, of spreads 1 and 100."""
    return GaussianMixture(torch.tensor([[5.0, -300.0]]).double(), torch.tensor([[[1.0, 80.0], [80.0, 1e4]]]).double())


def mixture() -> GaussianMixture:
    """Two clusters, far from the Gaussian of their covariance."""
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double()
    return GaussianMixture(means, torch.tensor([[0.2, 0.6], [0.5, 0.1]]).double())


def draw(model: GaussianMixture, n: int, seed: int) -> np.ndarray:
    return model.sample(n, torch.Generator().manual_seed(seed)).numpy()


def divergence(model: GaussianMixture, density: ScoreDensity, x: np.ndarray) -> tuple[float, float]:
    """KL of the estimate from the truth in nats, and its standard error."""
    gap = model.log_prob(torch.from_numpy(x)).numpy() - density.score_samples(x)
    return float(gap.mean()), float(gap.std() / math.sqrt(len(x)))


@pytest.fixture(scope="module")
def fitted() -> ScoreDensity:
    """On the mixture, with a smaller network than the default's."""
    return ScoreDensity(hidden=64, steps=500, random_state=0).fit(draw(mixture(), 1500, 0))


def test_a_gaussian_is_found() -> None:
    """1000 rows: five parameters cost 5/(2 n) = 0.0025 nats, the network may add a little."""
    model = gaussian()
    density = ScoreDensity(**QUICK).fit(draw(model, 1000, 0))
    gap, error = divergence(model, density, draw(model, 500, 1))
    assert -4 * error < gap < 0.02 + 4 * error


def test_a_mixture_is_found(fitted: ScoreDensity) -> None:
    """Within 0.1 nats of the truth, where the Gaussian of the same covariance is 0.4 away."""
    model = mixture()
    test = draw(model, 400, 1)
    gap, error = divergence(model, fitted, test)
    assert -4 * error < gap < 0.1 + 2 * error
    centred = test - fitted.mean_
    precision = np.linalg.inv(np.cov(draw(model, 1500, 0).T))
    normal = -0.5 * np.einsum("ni,ij,nj->n", centred, precision, centred) + 0.5 * np.linalg.slogdet(precision)[1]
    normal_gap = model.log_prob(torch.from_numpy(test)).numpy() - (normal - math.log(2 * math.pi))
    assert gap < 0.3 * normal_gap.mean()
    # What training saw of the gain over the normal density after the maps is what the rows say.
    x = torch.from_numpy(test)
    z = fitted.units_.standardised(x).numpy() @ fitted.whitening_.T
    start = (
        -0.5 * (z**2).sum(1) - math.log(2 * math.pi) + fitted.log_determinant_ + fitted.units_.log_jacobian(x).numpy()
    )
    assert fitted.gain_ == pytest.approx((fitted.score_samples(test) - start).mean(), abs=0.15)


def test_the_density_integrates_to_one(fitted: ScoreDensity) -> None:
    axes = np.linspace(-5, 5.5, 43), np.linspace(-4, 4, 41)
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert np.exp(fitted.score_samples(grid)).sum() * cell == pytest.approx(1, abs=0.02)


def test_samples_have_the_moments_of_the_data(fitted: ScoreDensity) -> None:
    x, truth = fitted.sample(800, random_state=1), draw(mixture(), 100_000, 2)
    for f in (lambda v: v, lambda v: v**2, lambda v: v[:, :1] * v[:, 1:]):
        a, b = f(x), f(truth)
        assert (abs(a.mean(0) - b.mean(0)) < 4 * a.std(0) / math.sqrt(len(a)) + 0.05 * b.std(0)).all()
    # They are draws of the density that is scored.
    values, expected = fitted.score_samples(x), fitted.score_samples(draw(mixture(), 400, 3))
    error = math.hypot(values.std() / math.sqrt(800), expected.std() / math.sqrt(400))
    assert abs(values.mean() - expected.mean()) < 4 * error + 0.1
    np.testing.assert_allclose(fitted.sample(5, random_state=1), x[:5], rtol=1e-10)


def test_units_are_carried() -> None:
    x = draw(mixture(), 200, 0)
    density, scaled = ScoreDensity(**QUICK).fit(x), ScoreDensity(**QUICK).fit(1024 * x)
    values = density.score_samples(x)
    # Powers of two are exact: the inner problem is the same to the last bit.
    np.testing.assert_allclose(scaled.score_samples(1024 * x), values - 2 * math.log(1024), rtol=0, atol=1e-9)
    np.testing.assert_allclose(scaled.sample(3, 0), 1024 * density.sample(3, 0), rtol=1e-12)
    unequal = x * [3.0, 0.01] + [100.0, 0.0]
    moved = ScoreDensity(**QUICK).fit(unequal).score_samples(unequal)
    np.testing.assert_allclose(moved, values - math.log(0.03), atol=2e-2)
    assert density.score(x) == pytest.approx(values.mean())


def test_errors_cover_the_solver(fitted: ScoreDensity) -> None:
    x = draw(mixture(), 400, 4)
    values, errors = fitted.score_samples(x, return_std=True)
    fine = clone(fitted)
    fine.__dict__.update(vars(fitted))
    fine.ode_steps = 64
    assert (abs(values - fine.score_samples(x)) < 1.96 * errors).mean() >= 0.93
    # Not wide for nothing: the mean error of the solver is more than a quarter of the mean interval's half width.
    assert abs(values - fine.score_samples(x)).mean() > 0.25 * 1.96 * errors.mean()


def test_errors_cost_half_as_many_evaluations_again(fitted: ScoreDensity) -> None:
    """A path of half the steps with half the divergences, and one evaluation for the prior."""
    x, calls = draw(mixture(), 5, 4), 0

    def count(*given: Any) -> None:
        nonlocal calls
        calls += 1

    hook = fitted.model_.register_forward_hook(count)
    numbers = []
    for asked in (False, True):
        calls = 0
        fitted.score_samples(x, return_std=asked)
        numbers.append(calls)
    hook.remove()
    check, solve = 8, 4 * 12 + 1 + 16
    assert solve <= numbers[0] <= solve + check  # the check is of the derivative, before each call
    assert numbers[1] - numbers[0] == 4 * 6 + 1 + 8 + 1


def test_errors_of_a_row_do_not_know_its_neighbours(fitted: ScoreDensity) -> None:
    """Rows that are far from all others do not widen the errors of these."""
    x = draw(mixture(), 20, 4)
    errors = fitted.score_samples(np.concatenate((x, 30 + 3 * x)), return_std=True)[1]
    np.testing.assert_allclose(errors[:20], fitted.score_samples(x, return_std=True)[1], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("d", "parts"), [(2, 3), (10, 4)])
def test_errors_cover_at_least_as_often_as_they_say(d: int, parts: int, seed: int) -> None:
    """On all rows 95% or more, less three standard errors, and 90% on the fifth of them that are least likely.

    The rows of the fit are of a mixture of its own for each seed. A solve with eight times the steps is taken as true.
    On average the intervals are not wider than one width for all rows that holds 99.4% of them: the calibration is at
    98%, and the share that 400 rows cover has a standard deviation of 0.7%.
    """
    generator = np.random.default_rng(seed)
    centres = 1.5 * generator.normal(size=(parts, d))
    rows = centres[generator.integers(parts, size=4000)] + 0.6 * generator.normal(size=(4000, d))
    fitted = ScoreDensity(steps=500, random_state=seed).fit(rows[:3000])
    values, errors = fitted.score_samples(rows[3000:], return_std=True)
    fine = clone(fitted)
    fine.__dict__.update(vars(fitted))
    fine.ode_steps = 96
    truth = fine.score_samples(rows[3000:])
    held = abs(values - truth) <= 1.96 * errors
    far = held[truth <= np.quantile(truth, 0.2)]
    width = 1.96 * errors.mean() / np.quantile(abs(values - truth), 0.994)
    print(f"{d} columns, seed {seed}: {held.mean():.3f} held, {far.mean():.3f} of the least likely fifth, {width:.2f}")
    assert held.mean() >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1000)
    assert far.mean() >= 0.90 - 3 * math.sqrt(0.9 * 0.1 / 200)
    assert width < 1


def test_errors_cover_the_rounding_of_single_precision(fitted: ScoreDensity) -> None:
    """With the solver's error left out, the stated error covers the difference from float64, and is not idle."""
    x = draw(mixture(), 200, 5)
    eps, alpha = fitted._end()
    standard = fitted.units_.standardised(torch.tensor(x)) @ torch.from_numpy(fitted.whitening_.T)
    exact = log_likelihood(
        fitted.model_, alpha * standard, eps=eps, **fitted._settings(x.shape[1]), estimate_error=False
    )
    fast = log_likelihood(
        copy.deepcopy(fitted.model_).float(),
        (alpha * standard).float(),
        eps=eps,
        **fitted._settings(x.shape[1]),
        estimate_error=False,
    )
    gap = (fast.log_prob.double() - exact.log_prob).abs()
    stated = fitted.rounding_ * (x.shape[1] + exact.log_prob.abs())
    assert float((gap <= stated).double().mean()) >= 0.95
    assert float(stated.mean()) < 100 * float(gap.mean()), "not wide for nothing"
    assert float(gap.max()) > 0, "scored in float32"


@pytest.mark.parametrize("column", ["outlier", "student", "log-normal"])
def test_features_far_from_normal_have_the_density_of_the_truth(column: str) -> None:
    """Within 0.1 nats a row of the truth. Without maps the gaps are 6.6, 0.6 and 0.8 nats."""
    generator = np.random.default_rng(0)
    density: Any = {"outlier": stats.norm(loc=3), "student": stats.t(2), "log-normal": stats.lognorm(1)}[column]
    x, test = (density.rvs((n, 2), random_state=generator) for n in (301, 500))
    if column == "outlier":
        x[7] = 1e6
        with pytest.warns(UserWarning, match=r"column 2: 1 of 301 training samples .* \(farthest 1e\+06, median"):
            fitted = ScoreDensity(**QUICK).fit(x)
    else:
        fitted = ScoreDensity(**QUICK).fit(x)
    gap = density.logpdf(test).sum(1) - fitted.score_samples(test)
    assert abs(gap.mean()) < 0.1
    drawn = fitted.sample(1000, random_state=0)
    for level in (0.1, 0.5, 0.9):
        # Of the share of draws below a quantile: its own standard error, and that of the rows of the fit.
        share, error = (drawn < density.ppf(level)).mean(0), math.sqrt(level * (1 - level) * (1 / 1000 + 1 / 301))
        assert (abs(share - level) < 4 * error).all()


COLUMNS: dict[str, Any] = {
    "outlier": stats.norm(loc=3),
    "normal": stats.norm(loc=3),
    "student 2": stats.t(2),
    "student 3": stats.t(3),
    "cauchy": stats.t(1),
    "log-normal": stats.lognorm(1),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:X, column")
@pytest.mark.parametrize(("n", "d"), [(300, 1), (300, 4), (3000, 2)])
@pytest.mark.parametrize("column", COLUMNS)
def test_with_its_defaults_it_is_within_a_tenth_of_a_nat_of_the_truth(column: str, n: int, d: int) -> None:
    """Held-out rows of columns that are correlated by 1/2."""
    density, correlation, generator = COLUMNS[column], 0.5 * np.eye(d) + 0.5, np.random.default_rng(0)
    normal = generator.multivariate_normal(np.zeros(d), correlation, n + 4000)
    x, test = np.split(density.ppf(stats.norm.cdf(normal)), [n])
    if column == "outlier":
        x[7] = 1e6
    truth = stats.multivariate_normal(np.zeros(d), correlation).logpdf(normal[n:])
    truth = truth + (density.logpdf(test) - stats.norm.logpdf(normal[n:])).sum(1)
    fitted = ScoreDensity(random_state=0).fit(x)
    gap = truth - fitted.score_samples(test)
    print(f"{column}, {n} rows, {d} columns: {gap.mean():.4f} ± {gap.std() / math.sqrt(len(gap)):.4f} nats")
    assert abs(gap.mean()) < 0.1


def test_normal_features_lose_nothing() -> None:
    """No maps: the same density to the bit."""
    x = draw(gaussian(), 300, 0)
    mapped, plain = (ScoreDensity(**QUICK, feature_maps=maps).fit(x) for maps in ("auto", "none"))
    np.testing.assert_array_equal(mapped.score_samples(x), plain.score_samples(x))


def test_probes_where_there_are_many_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate of the divergence is unbiased, and its error is told."""
    x = np.random.default_rng(0).normal(size=(100, 4))
    x[:, 0] = x[:, 0] ** 3
    density = ScoreDensity(**{**QUICK, "steps": 300, "learning_rate": 1e-2, "patience": 300}).fit(x)
    exact = density.score_samples(x)
    monkeypatch.setattr("backdrift.estimators.flow_density.EXACT", 3)
    values, errors = density.score_samples(x, return_std=True)
    assert (errors > 0).all()
    assert (abs(values - exact) < 4 * errors + 1e-6).mean() > 0.95


def test_any_process_will_do() -> None:
    model = gaussian()
    x = draw(model, 1000, 0)
    density = ScoreDensity(Rectified(), **QUICK).fit(x)
    assert divergence(model, density, draw(model, 300, 1))[0] < 0.1


def test_manners() -> None:
    x = draw(mixture(), 90, 0)
    density = ScoreDensity(**QUICK)
    assert clone(density).get_params() == density.get_params()
    with pytest.raises(NotFittedError):
        density.score_samples(x)
    with pytest.raises(NotFittedError):
        density.sample()
    values = density.fit(x).score_samples(x)
    np.testing.assert_array_equal(clone(density).fit(x).score_samples(x), values)  # the seed decides all
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(density)).score_samples(x), values)
    np.testing.assert_allclose(density.score_samples(x[:7]), values[:7], rtol=1e-9)  # no neighbours
    inside = make_pipeline(StandardScaler(), ScoreDensity(**QUICK)).fit(x).score(x)
    assert inside == pytest.approx(values.mean() + np.log(x.std(0)).sum(), abs=0.02)
    truth = float(mixture().log_prob(torch.from_numpy(x)).mean())
    assert (np.abs(cross_val_score(ScoreDensity(**QUICK), x, cv=3) - truth) < 1.5).all()  # nats a row, of 60 rows
    state = torch.get_rng_state()
    density.fit(x)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are touched


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ([[1.0, math.nan], [2.0, 1.0], [0.0, 3.0]], "NaN"),
        ([1.0, 2.0, 3.0], r"X: expected a table \[n, columns\], got shape \[3\]"),
        ([[1.0, 2.0], [2.0, 3.0]], "minimum of 3"),
        ([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]], "feature 1 has the same value"),
    ],
)
def test_tables_that_have_no_density_are_refused(x: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ScoreDensity(**QUICK).fit(x)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"hidden": 2.5},
        {"noise": 0},
        {"dropout": 1.0},
        {"validation_fraction": 1.0},
        {"learning_rate": -1},
        {"sde": "vp"},
        {"feature_maps": "box-cox"},
        {"verbose": 2},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        ScoreDensity(**{**QUICK, **wrong}).fit(np.eye(4))


def test_features_are_counted() -> None:
    density = ScoreDensity(**QUICK).fit(draw(mixture(), 30, 0))
    with pytest.raises(ValueError, match="X has 3 features, but ScoreDensity is expecting 2"):
        density.score_samples(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="n_samples: expected a positive integer, got 0"):
        density.sample(0)


TINY = ScoreDensity(hidden=4, depth=1, steps=2, ode_steps=2, batch_size=8, random_state=0)
CHECKS = list(estimator_checks_generator(TINY))


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[str(getattr(c, "func", c).__name__) for _, c in CHECKS])
def test_scikit_learns_own_checks(estimator: ScoreDensity, check: Callable[[ScoreDensity], None]) -> None:
    check(estimator)
