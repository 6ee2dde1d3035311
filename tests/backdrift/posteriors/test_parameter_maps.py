"""Maps of bounded parameters: Jacobians, bounds, and priors that become standard normal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from backdrift.posteriors.parameter_maps import ParameterMap, of_prior, standardising

INF = math.inf


@pytest.mark.parametrize(("lower", "upper"), [(-2.0, 5.0), (1.0, INF), (-INF, -1.0), (-INF, INF)])
def test_a_density_on_the_line_is_normalised_on_the_support(lower: float, upper: float) -> None:
    drawn = torch.from_numpy(np.random.default_rng(0).uniform(max(lower, -4), min(upper, 4), (50, 1)))
    parameters = standardising(of_prior(([lower], [upper]), 1), drawn)

    def density(value: float) -> float:
        theta = torch.tensor([[value]], dtype=torch.float64)
        log_normal = -0.5 * parameters.to_real(theta).square().sum() - 0.5 * math.log(2 * math.pi)
        return math.exp(float(log_normal + parameters.log_jacobian(theta)[0]))

    middle = min(max(0.0, lower + 0.5), upper - 0.5)
    edge = 1e-12  # the density is 0 at the bounds, where the map itself is infinite
    mass = sum(quad(density, a, b, limit=300)[0] for a, b in ((lower + edge, middle), (middle, upper - edge)))
    assert mass == pytest.approx(1.0, abs=2e-4)


@pytest.mark.parametrize(("lower", "upper"), [(-2.0, 5.0), (1.0, INF), (-INF, -1.0), (-INF, INF)])
def test_no_value_of_z_is_taken_outside_the_support(lower: float, upper: float) -> None:
    parameters = of_prior(([lower], [upper]), 1)
    z = torch.tensor([[-40.0], [-9.0], [-1.0], [0.0], [1.0], [9.0], [40.0]], dtype=torch.float64)
    theta = parameters.to_parameters(z)
    assert bool(parameters.inside(theta).all())
    assert float((parameters.to_real(theta[2:5]) - z[2:5]).abs().max()) < 1e-12


@pytest.mark.parametrize(
    "prior",
    [
        ([-1.0, 0.0], [1.0, 3.0]),
        torch.distributions.Independent(
            torch.distributions.Uniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 3.0])), 1
        ),
        stats.uniform([-1.0, 0.0], [2.0, 3.0]),
    ],
)
def test_a_uniform_prior_becomes_a_standard_normal_one(prior: object) -> None:
    parameters = of_prior(prior, 2)
    theta = torch.tensor([[0.5, 2.9], [-0.999, 1.0]], dtype=torch.float64)
    z = parameters.to_real(theta)
    exact = stats.norm.ppf((theta.numpy() - [-1, 0]) / [2, 3])
    assert parameters.is_standard
    assert np.allclose(z.numpy(), exact, atol=1e-12)
    # log p(theta) = log N(z; 0, I) + log |dz/dtheta| is the log of 1/6.
    log_p = stats.norm.logpdf(z.numpy()).sum(1) + parameters.log_jacobian(theta).numpy()
    assert np.allclose(log_p, -math.log(6), atol=1e-6)


def test_a_normal_prior_becomes_a_standard_one() -> None:
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
    theta = torch.tensor([[0.3, 0.1], [2.0, -3.0]], dtype=torch.float64)
    exact = stats.multivariate_normal(mean, covariance)
    for prior in (exact, torch.distributions.MultivariateNormal(torch.tensor(mean), torch.tensor(covariance))):
        parameters = of_prior(prior, 2)
        log_p = stats.norm.logpdf(parameters.to_real(theta).numpy()).sum(1) + parameters.log_jacobian(theta).numpy()
        assert np.allclose(log_p, exact.logpdf(theta.numpy()), atol=1e-10)
    assert of_prior(stats.norm([0, 1], 2), 2).is_standard


def test_other_priors_give_their_support() -> None:
    positive = of_prior(torch.distributions.Gamma(torch.ones(2), torch.ones(2)), 2)
    assert positive.lower.tolist() == [0.0, 0.0] and positive.upper.tolist() == [INF, INF]
    assert not positive.is_standard
    share = of_prior(stats.beta(2, 3), 2)
    assert (share.lower.tolist(), share.upper.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert isinstance(of_prior(None, 3), ParameterMap)


class Joined(torch.distributions.Distribution):
    """Independent priors one after another, as sbi's `MultipleIndependent` joins them."""

    def __init__(self) -> None:
        kinds = torch.distributions.constraints
        parts = [kinds.unit_interval, kinds.positive, kinds.real]
        self.joined = kinds.independent(kinds.cat(parts, dim=-1, lengths=[1, 2, 1]), 1)
        super().__init__(event_shape=torch.Size([4]), validate_args=False)

    @property
    def support(self) -> Any:
        return self.joined


def test_joined_priors_have_the_bounds_of_each() -> None:
    joined = of_prior(Joined(), 4)
    assert joined.lower.tolist() == [0.0, 0.0, 0.0, -INF]
    assert joined.upper.tolist() == [1.0, INF, INF, INF]
    with pytest.raises(ValueError, match="prior: expected 3 numbers, one for each parameter"):
        of_prior(Joined(), 3)


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        (([0.0], [1.0], [2.0]), "prior: expected a pair"),
        (([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]), "prior: expected 2 numbers"),
        (([1.0, 0.0], [0.0, 1.0]), "prior: expected lower bounds below"),
        ("uniform", "prior: expected"),
        (torch.distributions.Dirichlet(torch.ones(2)), "prior: expected one whose support is an interval"),
    ],
)
def test_what_is_no_prior_is_refused(prior: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        of_prior(prior, 2)
