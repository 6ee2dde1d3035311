"""`ConditionalScoreDensity` against conditional densities that are known, and its manners."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from backdrift import ConditionalScoreDensity
from backdrift.estimators.scorers import log_score, neg_energy_score

QUICK: dict[str, Any] = {"members": 1, "hidden": 16, "depth": 1, "steps": 60, "ode_steps": 8, "random_state": 0}
QUICK |= {"closed_form": "normal"}
TINY: dict[str, Any] = {"hidden": 4, "depth": 1, "steps": 2, "ode_steps": 2, "batch_size": 8, "random_state": 0}
TINY |= {"closed_form": "normal"}
"""For tests of manners and scikit-learn's checks, which fit it eighty times. Mixtures take longer than two steps."""

JOINT = np.array([[1.0, 0.5, 0.3], [0.5, 1.0, -0.4], [0.3, -0.4, 1.0]])
"""The covariance of x, y_1 and y_2."""
SLOPE = JOINT[0, 1:]
RESIDUAL = JOINT[1:, 1:] - np.outer(SLOPE, SLOPE)


def joint(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(seed).multivariate_normal(np.zeros(3), JOINT, n)
    return rows[:, :1], rows[:, 1:]


def joint_log_prob(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return stats.multivariate_normal(np.zeros(2), RESIDUAL).logpdf(y - x * SLOPE)


def spread(x: np.ndarray) -> Any:
    """y given x ~ N(sin x, (0.2 + 0.3 |x|)^2)."""
    return stats.norm(np.sin(x[:, 0]), 0.2 + 0.3 * np.abs(x[:, 0]))


def spread_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 1))
    return x, spread(x).rvs(random_state=generator)


def gap(log_p: np.ndarray, estimate: np.ndarray) -> tuple[float, float]:
    """How far an estimate is below the truth in nats a row, and the standard error."""
    difference = log_p - estimate
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))


@pytest.fixture(scope="module")
def fitted() -> ConditionalScoreDensity:
    """On rows whose spread depends on x."""
    return ConditionalScoreDensity(hidden=32, dropout=0.0, steps=800, ode_steps=8, random_state=0).fit(
        *spread_rows(1000, 0)
    )


@pytest.fixture(scope="module")
def normal() -> ConditionalScoreDensity:
    """On two targets that are jointly normal with x."""
    return ConditionalScoreDensity(**QUICK).fit(*joint(1000, 0))


def test_a_joint_normal_is_found(normal: ConditionalScoreDensity) -> None:
    """1000 rows: seven parameters cost 7/(2 n) = 0.0035 nats, and the network may add a little."""
    x, y = joint(500, 1)
    found, error = gap(joint_log_prob(x, y), normal.log_prob(x, y))
    assert -4 * error < found < 0.02 + 4 * error
    # A coefficient has a standard error of at most 1/sqrt(1000), and |x| is below 4.
    assert np.abs(normal.predict(x[:40]) - x[:40] * SLOPE).max() < 0.2


def test_draws_have_the_covariance_of_the_residuals(normal: ConditionalScoreDensity) -> None:
    """Of 2000 draws a variance has a standard error of sqrt(2/2000), and that of 1000 rows of the fit adds to it."""
    drawn = normal.sample(np.array([[0.0], [1.5]]), 2000, random_state=1)
    assert drawn.shape == (2, 2000, 2)
    for at, rows in zip((0.0, 1.5), drawn, strict=True):
        error = 4 * math.sqrt(2 / 2000 + 2 / 1000)
        np.testing.assert_allclose(np.cov(rows.T), RESIDUAL, atol=error)
        np.testing.assert_allclose(rows.mean(0), at * SLOPE, atol=4 * math.sqrt(1 / 2000 + (1 + at**2) / 1000))


def test_the_energy_score_of_several_targets(normal: ConditionalScoreDensity) -> None:
    """It is that of draws of the truth, within four standard errors of the paired difference."""
    x, y = joint(150, 2)
    generator = np.random.default_rng(0)
    draws = x[:, None] * SLOPE + generator.multivariate_normal(np.zeros(2), RESIDUAL, (150, 200))
    others = generator.multivariate_normal(np.zeros(2), RESIDUAL, (2, 100_000))
    between = np.linalg.norm(others[0] - others[1], axis=1).mean()
    truth = np.linalg.norm(draws - y[:, None], axis=2).mean(1) - between / 2
    found, error = gap(normal.energy_score(x, y), truth)
    assert abs(found) < 4 * error + 0.01


def test_a_spread_that_depends_on_x_is_found(fitted: ConditionalScoreDensity) -> None:
    """Within 0.08 nats a row of the truth, where linear regression with normal residuals is 0.24 away."""
    x, y = spread_rows(1000, 1)
    values, errors = fitted.log_prob(x, y, return_std=True)
    found, error = gap(spread(x).logpdf(y), values)
    assert -4 * error < found < 0.08 + 2 * error
    assert (errors > 0).all()
    train_x, train_y = spread_rows(1000, 0)
    slope, centre = np.polyfit(train_x[:, 0], train_y, 1)
    scale = np.std(train_y - slope * train_x[:, 0] - centre)
    linear, _ = gap(spread(x).logpdf(y), stats.norm(slope * x[:, 0] + centre, scale).logpdf(y))
    assert linear > 0.15
    assert found < 0.4 * linear
    assert fitted.score(x, y) == pytest.approx(values.mean(), abs=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_intervals_cover_as_they_say(fitted: ConditionalScoreDensity, level: float) -> None:
    """Within three binomial standard errors of 800 rows, and 2% for what 1000 rows of the fit leave unknown."""
    x, y = spread_rows(800, 3)
    low, high = fitted.interval(x, level).T
    covered = float(((low < y) & (y < high)).mean())
    assert abs(covered - level) < 3 * math.sqrt(level * (1 - level) / 800) + 0.02


def test_quantiles_are_those_of_the_density(fitted: ConditionalScoreDensity) -> None:
    """The integral of exp(log p) up to a quantile is its level. The trapezoidal rule on 801 points is far finer."""
    x = np.array([[-1.0], [0.5]])
    levels = [0.1, 0.5, 0.9]
    quantiles = fitted.quantile(x, levels)
    for row, at in zip(quantiles, x, strict=True):
        y = np.linspace(-5, 5, 801)
        log_p, error = fitted.log_prob(np.repeat(at[None], len(y), 0), y, return_std=True)
        p = np.exp(log_p)
        allowed = 1.96 * float((p * error).sum()) * (y[1] - y[0]) + 1e-3  # what the stated errors add up to
        share = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2) * (y[1] - y[0])])
        assert share[-1] == pytest.approx(1, abs=allowed)
        np.testing.assert_allclose(np.interp(row, y, share), levels, atol=allowed)
        mean = float((y * p).sum() * (y[1] - y[0]))
        assert fitted.predict(at[None])[0] == pytest.approx(mean, abs=allowed * 5)  # |y| is below 5
    np.testing.assert_array_equal(fitted.quantile(x, levels), quantiles)
    # Other levels are another batch, whose sums BLAS may order otherwise. Each of the 64 evaluations of the flow (16
    # steps of four) then differs by a rounding of float32 at most, in units of the residuals, which are below 1.
    rounding = 64 * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(fitted.quantile(x, 0.5), quantiles[:, 1], rtol=0, atol=rounding)


def test_crps_of_a_normal_density() -> None:
    """Against the closed form of Gneiting and Raftery (2007, eq. 21 for a normal density)."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 1))
    density = ConditionalScoreDensity(**TINY).fit(x, 3 * x[:, 0] + generator.normal(size=500))
    mean, low = density.predict(x), density.quantile(x, stats.norm.cdf(-1))
    scale, y = mean - low, 3 * x[:, 0] + generator.normal(size=500)
    w = (y - mean) / scale
    truth = scale * (w * (2 * stats.norm.cdf(w) - 1) + 2 * stats.norm.pdf(w) - 1 / math.sqrt(math.pi))
    np.testing.assert_allclose(density.energy_score(x, y), truth, atol=0.03)
    assert neg_energy_score(density, x, y) == pytest.approx(-truth.mean(), abs=0.005)


def test_the_density_of_mapped_targets_is_that_of_the_truth() -> None:
    """exp(x + 0.5 e) has a log-normal density given x. The maps of the marginal make it nearly linear and normal."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1200, 1))
    y = np.exp(x[:, 0] + 0.5 * generator.normal(size=1200))
    density = ConditionalScoreDensity(**QUICK).fit(x[:800], y[:800])
    truth = stats.lognorm(0.5, scale=np.exp(x[800:, 0])).logpdf(y[800:])
    found, error = gap(truth, density.log_prob(x[800:], y[800:]))
    assert -4 * error < found < 0.05 + 3 * error


def test_missing_features() -> None:
    """y = x + 0.3 e. Where x is missing the density of y is N(0, 1.09), and where it is known N(x, 0.09)."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2000, 1))
    y = x[:, 0] + 0.3 * generator.normal(size=2000)
    x[generator.random(2000) < 0.3] = math.nan
    density = ConditionalScoreDensity(hidden=32, dropout=0.0, steps=500, ode_steps=8, random_state=0)
    density.fit(x[:1500], y[:1500])
    x, y = x[1500:], y[1500:]
    missing = np.isnan(x[:, 0])
    truth = stats.norm(np.where(missing, 0, x[:, 0]), np.where(missing, math.sqrt(1.09), 0.3)).logpdf(y)
    values = density.log_prob(x, y)
    for part in (missing, ~missing):
        found, error = gap(truth[part], values[part])
        assert -4 * error < found < 0.1 + 3 * error


def test_manners() -> None:
    x, y = spread_rows(90, 0)
    density = ConditionalScoreDensity(**TINY)
    with pytest.raises(NotFittedError):
        density.log_prob(x, y)
    values = density.fit(x, y).log_prob(x, y)
    np.testing.assert_array_equal(clone(density).fit(x, y).log_prob(x, y), values)  # the seed decides all
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(density)).log_prob(x, y), values)
    np.testing.assert_allclose(density.log_prob(x[:7], y[:7]), values[:7], rtol=1e-6)  # no neighbours
    np.testing.assert_allclose(
        density.sample(x[:3], 2, random_state=1), density.sample(x, 2, random_state=1)[:3], rtol=1e-6
    )
    assert density.interval(x).shape == (90, 2)
    assert density.sample(x, 4).shape == (90, 4)


def test_searches_score_by_the_density() -> None:
    x, y = spread_rows(120, 0)
    pipeline = make_pipeline(StandardScaler(), ConditionalScoreDensity(**TINY))
    scoring = {"log": log_score, "energy": neg_energy_score}
    grid = {"conditionalscoredensity__noise": [0.02, 0.5]}
    search = GridSearchCV(pipeline, grid, scoring=scoring, refit="log", cv=2, n_jobs=1).fit(x, y)
    # Noise of 0.5 standard deviations is part of the density, and costs nats.
    assert search.best_params_["conditionalscoredensity__noise"] == 0.02
    assert search.score(x, y) == pytest.approx(search.best_estimator_.score(x, y))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([[1.0], [2.0], [0.0]], [1.0, math.nan, 2.0], "NaN"),
        ([[1.0], [2.0], [0.0]], [2.0, 2.0, 2.0], "y: feature 0 has the same value"),
        ([[math.nan], [math.nan], [math.nan]], [1.0, 3.0, 2.0], "X: feature 0 is missing in all 3 rows"),
        ([[math.inf], [2.0], [0.0]], [1.0, 3.0, 2.0], "X: feature 0 holds inf in row 0"),
        ([[1.0], [2.0], [0.0]], ["a", "b", "a"], "y: feature 0 holds 'a' in row 0, expected numbers"),
    ],
)
def test_tables_that_have_no_density_are_refused(x: list, y: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ConditionalScoreDensity(**TINY).fit(x, y)


def test_calls_that_do_not_fit_are_refused() -> None:
    x, y = spread_rows(30, 0)
    density = ConditionalScoreDensity(**TINY).fit(x, y)
    with pytest.raises(ValueError, match="X: feature 0 is missing in a row, but it was known in all rows of the fit"):
        density.predict([[math.nan]])
    with pytest.raises(ValueError, match="y: expected 1 targets, as in the fit, got 2"):
        density.log_prob(x, np.stack([y, y], 1))
    with pytest.raises(ValueError, match="q: expected"):
        density.quantile(x, [0.5, 1.0])
    with pytest.raises(ValueError, match="level: expected"):
        density.interval(x, 90)
    with pytest.raises(ValueError, match="n: expected"):
        density.sample(x, 0)


CHECKS = list(estimator_checks_generator(ConditionalScoreDensity(**TINY)))


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[str(getattr(c, "func", c).__name__) for _, c in CHECKS])
def test_scikit_learns_own_checks(
    estimator: ConditionalScoreDensity, check: Callable[[ConditionalScoreDensity], None]
) -> None:
    check(estimator)
