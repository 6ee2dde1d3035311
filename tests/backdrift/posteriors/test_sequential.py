"""Rounds with truncated proposals: the posterior of a normal model with a uniform prior is a truncated normal one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from backdrift import SimulationPosterior
from backdrift.posteriors import TruncatedRounds, truncated_rounds
from backdrift.posteriors.sequential import Region

STD, X_O = 0.1, np.array([0.3, 0.95])
PER_ROUND = 500
SMALL: dict[str, Any] = {"members": 1, "hidden": 32, "depth": 1, "steps": 200, "ode_steps": 8}


def simulator(theta: np.ndarray) -> np.ndarray:
    return theta + STD * np.random.default_rng(len(theta) + int(1e6 * abs(theta[0, 0]))).standard_normal(theta.shape)


@pytest.fixture(scope="module")
def result() -> TruncatedRounds:
    return truncated_rounds(
        simulator,
        ([-1, -1], [1, 1]),
        X_O,
        rounds=2,
        simulations=PER_ROUND,
        estimator=SimulationPosterior(**SMALL),
        random_state=0,
    )


def test_the_box_shrinks_and_holds_the_posterior(result: TruncatedRounds) -> None:
    """The posterior is N(x_o, 0.1^2) cut to (-1, 1)."""
    assert result.lower[0].tolist() == [-1, -1] and result.upper[0].tolist() == [1, 1]
    width = result.upper[1] - result.lower[1]
    assert (width < [1.4, 0.9]).all()
    exact = stats.truncnorm((-1 - X_O) / STD, (1 - X_O) / STD, X_O, STD)
    assert (result.lower[1] < exact.ppf(1e-3)).all() and (result.upper[1] >= exact.ppf(1 - 1e-3) - 1e-3).all()
    second = result.theta[PER_ROUND:]
    assert (second > result.lower[1]).all() and (second < result.upper[1]).all()
    # Proposals are uniform in the box.
    share = (second - result.lower[1]) / width
    assert min(stats.kstest(column, "uniform").pvalue for column in share.T) > 1e-3


def test_the_density_is_normalised_on_the_box_and_near_the_exact_one(result: TruncatedRounds) -> None:
    side = [np.linspace(low, high, 31) for low, high in zip(result.lower[1], result.upper[1], strict=True)]
    middle = [(one[1:] + one[:-1]) / 2 for one in side]
    grid = np.stack(np.meshgrid(*middle, indexing="ij"), -1).reshape(-1, 2)
    cell = np.prod([one[1] - one[0] for one in side])
    assert np.exp(result.posterior.log_prob(grid, X_O)).sum() * cell == pytest.approx(1.0, abs=0.02)
    assert result.posterior.log_prob([result.lower[1] - 1e-6], X_O)[0] == -np.inf
    draws = result.posterior.sample(X_O, 1000, random_state=0)
    assert (draws > result.lower[1]).all() and (draws < result.upper[1]).all()


def test_a_second_round_is_nearer_to_the_exact_posterior(result: TruncatedRounds) -> None:
    """KL(exact, q) by exact draws, with its standard error over them, for the rounds and for the first round alone."""
    exact = stats.truncnorm((-1 - X_O) / STD, (1 - X_O) / STD, X_O, STD)
    theta = exact.rvs((200, 2), random_state=0)
    theta = theta[((theta > result.lower[1]) & (theta < result.upper[1])).all(1)]
    assert len(theta) >= 198
    first = SimulationPosterior(**SMALL, random_state=0)
    first.fit(result.theta[:PER_ROUND], result.x[:PER_ROUND], prior=([-1, -1], [1, 1]))
    truth = exact.logpdf(theta).sum(1)
    one, two = (truth - posterior.log_prob(theta, X_O) for posterior in (first, result.posterior))
    gain = one - two
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))
    assert -4 * two.std() / np.sqrt(len(two)) < two.mean()  # no density is above the truth on average


RIDGE = (0.05, 0.5)
"""The noise of the sum and of the difference of two parameters, whose posterior is a narrow ridge."""


def ridge(theta: np.ndarray) -> np.ndarray:
    g = np.random.default_rng(len(theta) + int(1e6 * abs(theta[0, 0])))
    return np.stack([theta.sum(1), theta[:, 0] - theta[:, 1]], 1) + RIDGE * g.standard_normal(theta.shape)


def test_a_region_of_highest_density_follows_the_posterior() -> None:
    """The exact posterior of (sum, difference) is N(0, noise^2), cut to the prior. The region of the first round leaves
    out 0.1% of what it has learnt, and of the exact one less than 3%. Under the prior |sum| has the mean 2/3 and the
    variance 2/9; proposals are nearer to the ridge, where it is 0, by more than four standard errors. The second round
    is nearer to the exact posterior than the first alone."""
    prior, x_o = ([-1, -1], [1, 1]), [0.0, 0.0]
    found = truncated_rounds(
        ridge, prior, x_o, rounds=2, simulations=300, region="density", estimator=SimulationPosterior(**SMALL),
        random_state=0,
    )  # fmt: skip
    assert found.share[0] == 1 and found.share[1] < 1 - 4 * np.sqrt(0.25 / 300)
    assert np.abs(found.theta[300:].sum(1)).mean() < 2 / 3 - 4 * np.sqrt(2 / 9 / 300)
    drawn = np.random.default_rng(0).standard_normal((400, 2)) * RIDGE
    theta = np.stack([drawn.sum(1), drawn[:, 0] - drawn[:, 1]], 1) / 2
    inside = (np.abs(theta) < 1).all(1)
    first = SimulationPosterior(**SMALL, random_state=0).fit(found.theta[:300], found.x[:300], prior=prior)
    region = Region(x_o)
    region.add(first, 0)
    assert region.holds(torch.from_numpy(theta[inside])).double().mean() > 0.97
    theta, drawn = theta[inside][:150], drawn[inside][:150]
    # The sum and the difference have twice the volume of the parameters.
    truth = stats.norm(0, RIDGE).logpdf(drawn).sum(1) + np.log(2) - np.log(inside.mean())
    one, two = (truth - posterior.log_prob(theta, x_o) for posterior in (first, found.posterior))
    gain = one - two
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))
    assert -4 * two.std() / np.sqrt(len(two)) < two.mean()


@pytest.mark.slow
def test_defaults_give_the_moments_of_the_exact_posterior() -> None:
    """A regression on 2 n simulations errs by sqrt(3/2n) of a standard deviation; a network by as much again."""
    found = truncated_rounds(simulator, ([-1, -1], [1, 1]), X_O, rounds=3, simulations=500, random_state=0)
    draws = found.posterior.sample(X_O, 4000, random_state=0)
    exact = stats.truncnorm((-1 - X_O) / STD, (1 - X_O) / STD, X_O, STD)
    assert (np.abs(draws.mean(0) - exact.mean()) / exact.std() < 4 * np.sqrt(2 * 3 / 1000 + 1 / 4000)).all()
    assert (np.abs(draws.std(0) / exact.std() - 1) < 4 * np.sqrt(2 / 1000 + 1 / 8000)).all()


def test_what_has_no_box_is_refused() -> None:
    for prior in (stats.norm([0, 0], 1), ([0.0], [np.inf]), stats.beta([2, 2], 3)):
        with pytest.raises(ValueError, match="prior: expected a uniform one between finite bounds"):
            truncated_rounds(simulator, prior, X_O)
    with pytest.raises(ValueError, match="simulator: expected 50 observations, got 3"):
        truncated_rounds(lambda theta: theta[:3], ([-1, -1], [1, 1]), X_O, simulations=50)
