"""Priors with the moments of the data, against the density that normal data have at T."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from backdrift.models import GaussianMixture
from backdrift.sde import (
    VE,
    VP,
    Brownian,
    CosineVP,
    CriticallyDamped,
    DataMoments,
    GaussianSDE,
    LinearSDE,
    OrnsteinUhlenbeck,
    Rectified,
    SubVP,
)
from backdrift.solvers import DDIM, sample
from backdrift.solvers.model import prior_of

MEAN = torch.tensor([3.0, -1.0, 0.5]).double()
VARIANCE = torch.tensor([0.04, 1.0, 9.0]).double()


def draws(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "sde",
    [VP(beta_max=5.0), SubVP(), VE(sigma_max=9.0), Brownian(), CosineVP(), Rectified(), OrnsteinUhlenbeck(T=1.0)],
    ids=repr,
)
def test_independent_normal_data_leave_the_prior_at_T(sde: GaussianSDE) -> None:
    """For normal data with independent components the moments say all: the prior is p_T, to rounding."""
    model = GaussianMixture(MEAN[None], VARIANCE[None], sde=sde)
    prior, x = prior_of(model), 2 * draws(5, 3)
    assert prior is not None
    torch.testing.assert_close(prior.log_prob(x), model.log_prob(x, sde.T), rtol=1e-11, atol=1e-11)
    alpha, std = sde.alpha(sde.T), (sde.alpha(sde.T) ** 2 * VARIANCE + sde.sigma(sde.T) ** 2).sqrt()
    noise = draws(4, 3)
    torch.testing.assert_close(prior.from_noise(noise), alpha * MEAN + std * noise, rtol=1e-12, atol=1e-12)


def test_moments_of_a_mixture_are_those_of_its_draws() -> None:
    """Rotated covariances and unequal weights; within 4.5 standard errors of 200,000 draws."""
    root = draws(3, 2, 2)
    model = GaussianMixture(draws(3, 2) + 1, root @ root.mT, torch.tensor([0.2, 0.5, 0.3]))
    x = model.sample(200_000, torch.Generator().manual_seed(1))
    error = 4.5 * x.std(0) / len(x) ** 0.5
    assert bool(((x.mean(0) - model.data_moments.mean).abs() < error).all())
    square = (x - model.data_moments.mean).square()
    assert bool(((square.mean(0) - model.data_moments.variance).abs() < 4.5 * square.std(0) / len(x) ** 0.5).all())


def test_a_model_without_moments_has_the_prior_of_its_process() -> None:
    sde = VP()
    assert sde.prior_for(None) is sde.prior
    linear = CriticallyDamped()
    assert linear.prior_for(None) is linear.prior


def test_numbers_stand_for_all_components() -> None:
    sde, x = VP(beta_max=5.0), draws(4, 3, 2)
    one = sde.prior_for(DataMoments(torch.tensor(2.0), torch.tensor(0.5)))
    each = sde.prior_for(DataMoments(torch.full((3, 2), 2.0), torch.full((3, 2), 0.5)))
    torch.testing.assert_close(one.log_prob(x), each.log_prob(x), rtol=1e-12, atol=0)


def test_positions_with_velocities() -> None:
    """Positions of mean m and variance v leave phi m and phi phi^T v in the state at T, beside its covariance."""
    sde, variance = CriticallyDamped(schedule=1.0), 0.7
    prior = sde.prior_for(DataMoments(MEAN, torch.full((3,), variance, dtype=torch.float64)))
    phi, _ = sde.moments(0.0, sde.T)
    column, x = phi[:, 0], draws(5, 2, 3)
    covariance = sde.covariance_at(sde.T) + variance * torch.outer(column, column)
    expected = sum(MultivariateNormal(m * column, covariance).log_prob(x[:, :, k]) for k, m in enumerate(MEAN))
    torch.testing.assert_close(prior.log_prob(x), expected, rtol=1e-11, atol=0)
    made = prior.from_noise(draws(100_000, 2, 3))
    error = 4.5 * made.std(0) / len(made) ** 0.5
    assert bool(((made.mean(0) - column[:, None] * MEAN).abs() < error).all())


def test_a_linear_process_without_velocities() -> None:
    """Each component of the state has its own variance, and no other axis follows."""
    sde = LinearSDE([[-1.0, 0.5], [0.0, -2.0]], [[1.0, 0.0], [0.0, 1.0]], schedule=1.0, T=0.5)
    prior = sde.prior_for(DataMoments(MEAN[:2], VARIANCE[:2]))
    phi, sigma = sde.moments(0.0, sde.T)
    x = draws(5, 2)
    expected = MultivariateNormal(phi @ MEAN[:2], phi @ VARIANCE[:2].diag() @ phi.mT + sigma).log_prob(x)
    torch.testing.assert_close(prior.log_prob(x), expected, rtol=1e-11, atol=0)
    with pytest.raises(ValueError, match=r"^moments: expected those of a state \[2, \.\.\.\], got \[3\]"):
        sde.prior_for(DataMoments(MEAN, VARIANCE))


@pytest.mark.parametrize("sde", [VP(beta_max=2.0), Brownian(T=1.0)], ids=repr)
def test_samples_start_from_it(sde: GaussianSDE) -> None:
    """At T so early that alpha_T is far from 0, samples have the mean and the variances of the data.

    200 steps of DDIM leave an error below the statistical one, four standard errors of 4,000 samples. From the prior
    of the process alone the mean is off by more than 20 standard errors.
    """
    model = GaussianMixture(MEAN[None], VARIANCE[None], sde=sde)
    x = sample(model, DDIM(steps=200), (4000, 3), dtype=torch.float64)
    assert bool(((x.mean(0) - MEAN).abs() < 4 * (VARIANCE / 4000).sqrt()).all())
    assert bool(((x.var(0) / VARIANCE - 1).abs() < 4 * (2 / 4000) ** 0.5 + 0.02).all())
    blind = sample(model, DDIM(steps=200), (4000, 3), x_T=sde.prior.from_noise(draws(4000, 3)))
    assert float(((blind.mean(0) - MEAN).abs() / (VARIANCE / 4000).sqrt()).max()) > 20
