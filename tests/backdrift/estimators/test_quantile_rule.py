"""Means and ranked probability scores of densities that are known, from the nodes of their quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import ndtr

from backdrift import ConditionalScoreDensity
from backdrift.estimators.quantile_rule import CELLS, quantile_rule, rank_probability_score

DENSITIES = {
    "normal": stats.norm(3),
    "log-normal 1": stats.lognorm(1.0),
    "log-normal 2": stats.lognorm(2.0),
    "exponential": stats.expon(),
    "gamma": stats.gamma(0.3),
    "t": stats.t(3, 3),
    "Pareto": stats.pareto(2),
    "beta": stats.beta(0.3, 0.3),
}


def quantiles(density: stats.rv_continuous) -> np.ndarray:
    """At the nodes, with all digits in both tails."""
    z, _ = quantile_rule()
    return np.where(z < 0, density.ppf(ndtr(z)), density.isf(ndtr(-z)))


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
def test_means_are_those_of_the_density(density: stats.rv_continuous) -> None:
    """64 equal quantiles were wrong by 18% for a log-normal density, and by 4% for Pareto's."""
    assert quantile_rule()[1].sum() == pytest.approx(1, abs=1e-12)
    assert quantiles(density) @ quantile_rule()[1] == pytest.approx(density.mean(), rel=5e-4)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
def test_the_score_is_that_of_the_density(density: stats.rv_continuous, level: float) -> None:
    """It is the integral of (F(v) - 1[v > y])^2, in two parts."""
    y, (low, high) = density.ppf(level), density.support()
    exact = integrate.quad(lambda v: density.cdf(v) ** 2, low, y, limit=500)[0]
    exact += integrate.quad(lambda v: density.sf(v) ** 2, y, high, limit=500)[0]
    values, weight = quantiles(density), quantile_rule()[1]
    found = rank_probability_score(np.array([y]), values[None])[0]
    # The slope of the integrand jumps by 2 dq/da at y, which costs a quarter of (width in level) (width in y) at most.
    k = int(np.searchsorted(values, y))
    kink = (weight[k - 1] + weight[k]) / 2 * (values[k] - values[k - 1]) / 4
    assert found == pytest.approx(exact, rel=5e-4, abs=kink)
    assert found == pytest.approx(exact, rel=5e-3)


def test_a_gap_between_two_modes_costs_half_a_cell_at_most() -> None:
    z, weight = quantile_rule()
    for share in (0.2, 0.37, 0.5, 0.8):
        assert (ndtr(z) > share) @ weight == pytest.approx(1 - share, abs=0.5 / CELLS)


def test_the_mean_of_a_heavy_tailed_target_is_that_of_its_own_density() -> None:
    """By the trapezoidal rule on 400 quantiles of the same model. The mean of 64 was smaller by 18%."""
    g = np.random.default_rng(0)
    x = g.standard_normal((300, 1))
    y = np.exp(x[:, 0] + 2 * g.standard_normal(300))
    density = ConditionalScoreDensity(
        members=1, hidden=8, depth=1, steps=1, ode_steps=2, closed_form="normal", random_state=0
    ).fit(x, y)
    z = np.linspace(-7, 7, 401)
    weight = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    new = np.array([[-1.0], [1.0]])
    np.testing.assert_allclose(density.predict(new), density.quantile(new, ndtr(z)) @ weight, rtol=1e-3)
