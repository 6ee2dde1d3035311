"""Posteriors learnt from simulations, beside posteriors in closed form."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone

from backdrift import SimulationPosterior
from backdrift.models import GaussianMixture
from backdrift.sde import VP

SIMULATIONS = 1000
SLOPE = np.array([[1.0, 0.5], [0.0, 1.0], [-0.5, 0.3]])


def linear_simulations(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """theta ~ N(0, I) and x = A theta + noise of variance 0.25."""
    g = np.random.default_rng(seed)
    theta = g.standard_normal((SIMULATIONS, 2))
    return theta, theta @ SLOPE.T + 0.5 * g.standard_normal((SIMULATIONS, 3))


@pytest.fixture(scope="module")
def linear() -> SimulationPosterior:
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    return SimulationPosterior(members=2, hidden=16, depth=1, steps=60, ode_steps=12, random_state=0).fit(
        *linear_simulations(0), prior=prior
    )


@pytest.fixture(scope="module")
def bounded() -> SimulationPosterior:
    """theta is uniform on (-1, 1) and x = theta + noise of 0.5, so that the posterior is a truncated normal one."""
    g = np.random.default_rng(0)
    theta = g.uniform(-1, 1, (SIMULATIONS, 1))
    x = theta + 0.5 * g.standard_normal(theta.shape)
    return SimulationPosterior(members=1, hidden=32, depth=1, steps=150, ode_steps=12, random_state=0).fit(
        theta, x, prior=([-1], [1])
    )


def test_linear_normal_posterior(linear: SimulationPosterior) -> None:
    """Mean and covariance are as near as a regression on so many simulations puts them: its standard errors are
    sqrt(4/n) of a posterior standard deviation, and sqrt(2/n) of a variance. To these come those of the draws."""
    x = np.array([0.6, -0.4, 0.2])
    covariance = np.linalg.inv(np.eye(2) + SLOPE.T @ SLOPE / 0.25)
    mean = covariance @ SLOPE.T @ x / 0.25
    draws = linear.sample(x, 4000, random_state=1)
    std = np.sqrt(np.diag(covariance))
    assert np.abs((draws.mean(0) - mean) / std).max() < 4 * np.sqrt(4 / SIMULATIONS + 1 / 4000)
    found = np.cov(draws.T) / np.outer(std, std) - covariance / np.outer(std, std)
    assert np.abs(found).max() < 4 * np.sqrt(2 / SIMULATIONS + 2 / 4000)
    exact = stats.multivariate_normal(mean, covariance).logpdf(draws[:200])
    # The expected loss of log-density is about half a parameter's worth of 1/n for each of the 11 that were fitted.
    assert abs(np.mean(linear.log_prob(draws[:200], x) - exact)) < 4 * 11 / SIMULATIONS + 4 * np.sqrt(
        4 / SIMULATIONS / 200
    )


def test_repeated_observations_of_a_linear_normal_model(linear: SimulationPosterior) -> None:
    n = 5
    x = np.random.default_rng(3).standard_normal((n, 3)) * 0.5 + SLOPE @ [0.5, -0.5]
    covariance = np.linalg.inv(np.eye(2) + n * SLOPE.T @ SLOPE / 0.25)
    mean = covariance @ SLOPE.T @ x.sum(0) / 0.25
    draws = linear.sample(x, 500, repeated=True, random_state=0)
    std = np.sqrt(np.diag(covariance))
    # The errors of single posteriors add up: n of them count for sqrt(n) of the standard deviation that is left.
    assert np.abs((draws.mean(0) - mean) / std).max() < 4 * np.sqrt(n * 4 / SIMULATIONS + 1 / 500)
    spread = np.var(draws, axis=0) / std**2
    # Each single covariance comes from 256 draws, and the regression's own errors are the same for all of them.
    assert np.abs(spread - 1).max() < 4 * np.sqrt(2 / SIMULATIONS + 2 / 256 / n + 2 / 500)


def test_nothing_leaks_and_the_density_is_normalised(bounded: SimulationPosterior) -> None:
    for x in (0.0, 1.1):
        draws = bounded.sample([x], 2000, random_state=0)
        assert draws.min() > -1 and draws.max() < 1
        grid = np.linspace(-1, 1, 401)[1:-1, None]
        assert np.trapezoid(np.exp(bounded.log_prob(grid, [x]))[:], grid[:, 0]) == pytest.approx(1.0, abs=0.01)
    assert bounded.log_prob([[-1.0], [1.5]], [0.0]).tolist() == [-np.inf, -np.inf]


def test_density_of_two_parameters_is_normalised() -> None:
    g = np.random.default_rng(1)
    theta = g.uniform(0, 2, (500, 2))
    x = theta.sum(1, keepdims=True) + 0.3 * g.standard_normal((500, 1))
    posterior = SimulationPosterior(members=1, hidden=16, depth=1, steps=100, ode_steps=8, random_state=0)
    posterior.fit(theta, x, prior=([0, 0], [2, 2]))
    side = (np.arange(40) + 0.5) / 20
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    assert np.exp(posterior.log_prob(grid, [2.0])).sum() / 400 == pytest.approx(1.0, abs=0.01)


def test_stated_error_holds_the_log_density_of_a_finer_solve(bounded: SimulationPosterior) -> None:
    theta = np.linspace(-0.95, 0.95, 40)[:, None]
    coarse = clone(bounded)
    fine = clone(bounded).set_params(ode_steps=48)
    for other in (coarse, fine):
        other.__dict__.update({k: v for k, v in bounded.__dict__.items() if k.endswith("_") or k.startswith("_")})
    value, error = coarse.log_prob(theta, [0.3], return_std=True)
    exact = fine.log_prob(theta, [0.3])
    assert np.mean(np.abs(value - exact) <= 1.96 * error) >= 0.9
    assert error.max() < 1e-3


class Known:
    """A closed form in the place of the denoiser of a residual, whatever the observation is."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture, self.sde = mixture, mixture.sde

    def double(self) -> Known:
        return self

    def given(self, condition: object) -> GaussianMixture:
        return self.mixture


@pytest.mark.parametrize("ode_steps", [3, 6])
def test_stated_errors_hold_at_few_steps(linear: SimulationPosterior, ode_steps: int) -> None:
    """Where two solves happen to agree, their difference says nothing: single errors were up to 100 times the bound."""
    sde = VP()
    covariances = torch.tensor([[[0.01, 0.0], [0.0, 2.9]]], dtype=torch.float64)
    known = Known(GaussianMixture(torch.tensor([[0.5, -0.3]], dtype=torch.float64), covariances, sde=sde))
    coarse, fine = copy.copy(linear), copy.copy(linear)
    for one, steps in ((coarse, ode_steps), (fine, 64)):
        one.set_params(ode_steps=steps)
        one.model_, one._usual_bounds = known, {}  # type: ignore[assignment]
    x = np.array([0.6, -0.4, 0.2])
    r = known.mixture.sample(100, torch.Generator().manual_seed(0))
    theta = linear.parameters_.to_parameters(linear.base_.restored(r, linear._observed(x, False, False)))
    value, error = coarse.log_prob(theta, x, return_std=True)
    gap = np.abs(value - fine.log_prob(theta, x))
    assert np.mean(gap <= 1.96 * error) >= 0.95  # 0.87 with 3 steps before the median was stated at least
    assert gap.max() <= 3 * 1.96 * error[gap.argmax()]


def test_several_observations_are_refused_unless_said_what_they_are(bounded: SimulationPosterior) -> None:
    with pytest.raises(ValueError, match="x_o: expected one observation, got 3; say repeated=True"):
        bounded.sample([0.1, 0.2, 0.3], 10)
    assert bounded.sample([0.1, 0.2, 0.3], 10, each=True).shape == (3, 10, 1)
    with pytest.raises(ValueError, match="each: expected False"):
        bounded.sample([0.1, 0.2], 10, each=True, repeated=True)


def test_a_far_observation_is_answered_with_a_warning(bounded: SimulationPosterior) -> None:
    with pytest.warns(UserWarning, match="x_o: far from every simulation: the nearest one is .* times"):
        bounded.sample([30.0], 2)


def test_arrays_lists_and_tensors_of_any_precision_give_the_same() -> None:
    theta, x = linear_simulations(2)
    theta, x = theta[:100].astype(np.float32).astype(np.float64), x[:100].astype(np.float32).astype(np.float64)
    estimator = SimulationPosterior(members=1, hidden=16, steps=5, random_state=0)
    first = estimator.fit(theta, x).sample(x[0], 5)
    again = estimator.fit(theta.tolist(), torch.tensor(x, dtype=torch.float32)).sample(torch.tensor(x[:1]), 5)
    assert np.array_equal(first, again)  # and a second fit starts anew
    assert np.array_equal(first[:3], estimator.sample(x[0], 3))


def test_an_embedding_sees_observations_in_their_shape() -> None:
    g = np.random.default_rng(0)
    theta = g.standard_normal((200, 1))
    x = theta[:, :, None] + 0.1 * g.standard_normal((200, 4, 5))

    embedding = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 3))
    posterior = SimulationPosterior(embedding=embedding, members=1, hidden=16, steps=20, random_state=0).fit(theta, x)
    draws = posterior.sample(np.full((4, 5), 0.5), 200, random_state=0)
    assert abs(draws.mean() - 0.5) < 0.1  # the exact posterior has a standard deviation of 0.022


@pytest.mark.parametrize(
    ("theta", "x", "prior", "said"),
    [
        (np.zeros((30, 2)), np.zeros((29, 1)), None, "x: expected one row for each of the 30"),
        (np.eye(30, 2), np.full((30, 1), np.nan), None, "x: expected finite numbers"),
        (np.eye(10, 2), np.zeros((10, 1)), None, "theta: expected at least 20"),
        (np.zeros((30, 2)), np.zeros((30, 1)), None, "theta: expected parameters that vary, got"),
        (np.eye(30, 2), np.zeros((30, 1)), ([0, 0], [2, 2]), "theta: expected parameters within the support"),
    ],
)
def test_what_cannot_be_learnt_is_refused(theta: np.ndarray, x: np.ndarray, prior: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SimulationPosterior().fit(theta, x, prior=prior)


def test_diagnose_on_new_simulations(linear: SimulationPosterior) -> None:
    theta, x = linear_simulations(9)
    found = linear.diagnose(theta[:200], x[:200], draws=30)
    assert found.passed, str(found)
