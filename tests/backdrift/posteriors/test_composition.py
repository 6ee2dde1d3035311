"""Posteriors of several observations, composed: exact for normal ones from 1 to 1,000 observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from backdrift.posteriors.composition import ComposedPosterior, composed_draws
from backdrift.sde import VP


def normal_posteriors(n: int) -> tuple[ComposedPosterior, Tensor, Tensor]:
    """Observations x_i = y + noise of covariances of their own; the composed posterior, and the exact moments."""
    g = np.random.default_rng(n)
    d, prior_mean = 2, torch.tensor([0.3, -0.2], dtype=torch.float64)
    prior = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    roots = torch.from_numpy(g.standard_normal((n, d, d)))
    noise = torch.linalg.inv(roots @ roots.transpose(1, 2) + 0.5 * torch.eye(d, dtype=torch.float64))
    x = torch.from_numpy(g.standard_normal((n, d)))
    inverse = torch.linalg.inv
    covariances = inverse(inverse(prior) + inverse(noise))
    seen = (inverse(noise) @ x[..., None])[..., 0]
    means = (covariances @ (inverse(prior) @ prior_mean + seen)[..., None])[..., 0]
    covariance = inverse(inverse(prior) + inverse(noise).sum(0))
    mean = covariance @ (inverse(prior) @ prior_mean + seen.sum(0))

    def denoise(state: Tensor, which: Tensor, t: Tensor) -> Tensor:
        sde = VP()
        s2 = (sde.sigma(t) / sde.alpha(t)).square()
        gain = covariances[which] @ inverse(covariances[which] + s2 * torch.eye(d, dtype=torch.float64))
        return means[which] + (gain @ (state / sde.alpha(t) - means[which])[..., None])[..., 0]

    return ComposedPosterior(VP(), denoise, means, covariances, (prior_mean, prior)), mean, covariance


@pytest.mark.parametrize("n", [1, 3, 30, 1000])
def test_mean_and_covariance_within_one_per_cent(n: int) -> None:
    """The flow of a normal density is affine. Draws are then affine in their noise, which least squares recovers, so
    that the moments have no Monte Carlo error."""
    model, mean, covariance = normal_posteriors(n)
    draws = composed_draws(model, 6, 0, 48)
    from backdrift.solvers import Noise

    noise = Noise(0, (6, 2), dtype=torch.float64)()
    design = torch.cat([torch.ones(6, 1, dtype=torch.float64), noise], 1)
    affine = torch.linalg.lstsq(design, draws).solution
    std = covariance.diagonal().sqrt()
    assert float(((affine[0] - mean) / std).abs().max()) < 0.01
    found = affine[1:].T @ affine[1:]
    assert float(((found - covariance) / torch.outer(std, std)).abs().max()) < 0.01


def test_denoiser_is_that_of_the_exact_posterior() -> None:
    model, mean, covariance = normal_posteriors(7)
    state, t, sde = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 0.2, VP()
    t_ = torch.tensor(t, dtype=torch.float64)
    s2 = float((sde.sigma(t_) / sde.alpha(t_)).square())
    gain = covariance @ torch.linalg.inv(covariance + s2 * torch.eye(2, dtype=torch.float64))
    exact = mean + (state / sde.alpha(t_) - mean) @ gain.T
    assert float((model.denoise(state, t) - exact).abs().max()) < 1e-9


def test_posteriors_that_are_wider_than_the_prior_leave_a_density() -> None:
    covariance = 1.2 * torch.eye(2, dtype=torch.float64).expand(50, 2, 2)
    prior = (torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    model = ComposedPosterior(VP(), lambda x, w, t: x, torch.zeros(50, 2, dtype=torch.float64), covariance, prior)
    assert torch.linalg.eigvalsh(model.precision).tolist() == pytest.approx([1.0, 1.0])
