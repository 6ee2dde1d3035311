"""What the prior adds to the error of a log-density, where that is known in closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, CosineVP, CriticallyDamped, GaussianSDE, OrnsteinUhlenbeck, Time
from backdrift.solvers import log_likelihood
from backdrift.solvers.density.prior_error import prior_error


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_another_mean_is_its_distance_in_deviations() -> None:
    """With covariances alike, h is linear, and its standard deviation is |alpha_T m - mean|/sigma."""
    sde = VP(beta_max=5.0)
    mean = torch.tensor([3.0, -1.0]).double()
    model = GaussianMixture(mean[None], 1e-16, sde=sde)
    found = prior_error(model, noise(6, 2), sde.prior)
    expected = float(sde.alpha(torch.tensor(sde.T).double())) * float(mean.norm()) / float(sde.prior.std)
    along = noise(6, 2) @ mean / mean.norm() / float(sde.prior.std)  # of each state, in deviations
    torch.testing.assert_close(found, expected * along.abs().clamp(min=1), rtol=1e-9, atol=0)


def test_another_covariance_is_twice_the_variance() -> None:
    """h = z^T A z/2 + const for correlated data: the mean of the square is tr A^2, twice the variance of h."""
    sde = VP(beta_max=8.0)
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    model = GaussianMixture(torch.zeros(1, 2).double(), covariance[None], sde=sde)
    prior = sde.prior_for(model.data_moments)
    alpha, sigma = float(sde.alpha(torch.tensor(sde.T).double())), float(sde.prior.std)
    total = alpha**2 * covariance + sigma**2 * torch.eye(2).double()
    x = noise(20_000, 2) @ torch.linalg.cholesky(total).mT
    h = model.log_prob(x, sde.T) - prior.log_prob(x)
    slope = model.score(x, torch.tensor(sde.T).double()) + x / torch.as_tensor(prior.std).square()
    deviation = (slope * sigma).norm(dim=1)
    ratio = float(deviation.square().mean() / h.var())
    assert ratio == pytest.approx(2, rel=0.05)  # to first order in alpha^2; the two means are known to 1.5%
    along = (slope * x).sum(1).abs()
    torch.testing.assert_close(prior_error(model, x, prior), torch.maximum(deviation, along), rtol=1e-6, atol=1e-12)


class Data:
    """Normal positions under critical damping, whose score is known. As of a network, only the velocity's part is told.

    Args:
        whole: whether the score has its position's part as well.
    """

    def __init__(self, whole: bool) -> None:
        self.sde, self.whole = CriticallyDamped(schedule=1.0), whole
        phi, _ = self.sde.moments(0.0, self.sde.T)
        self.mean, self.covariance = 0.8 * phi[:, 0], self.sde.covariance_at(self.sde.T)

    def score(self, x: Tensor, t: Time) -> Tensor:
        score = -torch.linalg.solve(self.covariance, x.flatten(2) - self.mean[:, None]).reshape(x.shape)
        return score if self.whole else torch.stack([torch.zeros_like(score[:, 1]), score[:, 1]], 1)


@pytest.mark.parametrize("whole", [True, False])
def test_the_velocity_s_score_tells_the_error_of_the_whole_state(whole: bool) -> None:
    model = Data(whole)
    x = noise(5, 2, 3)
    found = prior_error(model, x, model.sde.prior)
    if not whole:  # the prior's own position part must not count as error
        prior = model.sde.prior
        shown = SimpleNamespace(log_prob=prior.log_prob)
        torch.testing.assert_close(prior_error(model, x, shown), found)
    slope = torch.linalg.solve(model.covariance, model.mean)
    expected = torch.maximum(3 * (model.mean @ slope), torch.einsum("d,bdn->b", slope, x).square()).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sde", [VP(), VE(), CosineVP(), OrnsteinUhlenbeck()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("dim", [2, 16])
def test_intervals_hold_the_density_of_the_data(sde: GaussianSDE, dim: int) -> None:
    """Nothing is given: neither p_T nor a prior. A mixture with mean 3 and correlated components, exact divergences.

    500 samples; of intervals that hold 93% of the time, fewer than 455 hold in 4 of 10,000 trials.
    """
    root = noise(5, dim, dim, seed=1) / math.sqrt(dim)
    model = GaussianMixture(noise(5, dim, seed=2) + 3, root @ root.mT + 0.05 * torch.eye(dim).double(), sde=sde)
    x = sde.perturb(model.sample(500, torch.Generator().manual_seed(3)), sde.eps, noise(500, dim, seed=4))
    found = log_likelihood(model, x, probes="exact", steps=24)
    low, high = found.interval()
    truth = model.log_prob(x, sde.eps)
    assert int(((low <= truth) & (truth <= high)).sum()) >= 455
    # The prior's part alone, by the model's own density: the same solve with p_T in place of the prior.
    own = log_likelihood(
        model, x, probes="exact", steps=24, prior=SimpleNamespace(log_prob=lambda x: model.log_prob(x, sde.T))
    )
    miss = (found.log_prob - own.log_prob).abs()
    stated = 1.96 * found.prior_error
    if float(stated.mean()) > 1e-8:
        assert int((miss <= stated).sum()) >= 455
        assert float(stated.mean() / 1.96) < 3 * float(miss.square().mean().sqrt())


def test_which_density_an_interval_is_for() -> None:
    sde = VP(beta_max=5.0)
    model = GaussianMixture(torch.full((1, 2), 3.0).double(), 1.0, sde=sde)
    network = SimpleNamespace(sde=sde, denoise=model.denoise)
    x = model.sample(4, torch.Generator().manual_seed(0))
    exact, trained = (log_likelihood(m, x, prior=sde.prior, steps=8) for m in (model, network))
    assert (exact.density, trained.density) == ("data", "model")
    assert "p_eps of the data" in str(exact) and "density of the model" in str(trained)
    width = (trained.interval()[1] - trained.log_prob).clamp(min=1e-12)
    wide = exact.interval()[1] - exact.log_prob
    torch.testing.assert_close(wide - width, 1.959964 * exact.prior_error, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(trained.interval(density="data")[1], exact.interval()[1])
    with pytest.raises(ValueError, match=r"^density: expected"):
        exact.interval(density="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("sde", [VP(), VE(), VP(beta_max=8.0)], ids=["vp", "ve", "vp8"])
@pytest.mark.parametrize("scored_as", [0, 1])
def test_intervals_of_a_class_hold_with_the_prior_of_all_classes(sde: GaussianSDE, scored_as: int) -> None:
    """Two classes, 24 of their deviations apart. A network of classes has the moments of both in its prior.

    500 samples of the first class are scored as what they are, and as the other class; of intervals that hold 93% of
    the time, fewer than 455 hold in 4 of 10,000 trials.
    """
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]]).double()
    classes = [GaussianMixture(mean[None], 0.0087, sde=sde) for mean in means]
    both = GaussianMixture(means, 0.0087, sde=sde)
    network = SimpleNamespace(sde=sde, denoise=classes[scored_as].denoise, data_moments=both.data_moments, data_std=1.0)
    x = sde.perturb(classes[0].sample(500, torch.Generator().manual_seed(3)), sde.eps, noise(500, 2, seed=4))
    found = log_likelihood(network, x, probes="exact", steps=24)
    low, high = found.interval(density="data")
    truth = classes[scored_as].log_prob(x, sde.eps)
    assert int(((low <= truth) & (truth <= high)).sum()) >= 455
    miss = (found.log_prob - truth).square().mean().sqrt()
    assert float(found.prior_error.mean()) < 3 * float(miss)
