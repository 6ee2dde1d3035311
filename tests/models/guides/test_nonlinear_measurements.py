"""Measurements that are not linear or not normal, against quadrature of the posterior in one dimension."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from backdrift.models import (
    DPS,
    JFPS,
    MMPS,
    TMPD,
    DiffPIR,
    GaussianMixture,
    Mask,
    Measurement,
    NonlinearMeasurement,
    PiGDM,
    PoissonMeasurement,
)
from backdrift.sde import VP
from backdrift.solvers import Adams, particles, sample

EVERY = Mask(torch.ones(1, dtype=torch.bool))


def bumps() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[1.0], [2.2]]).double(), 0.09, sde=VP())


def cubed(x: Tensor) -> Tensor:
    return x + 0.3 * x.pow(3)


def measurements() -> list[Any]:
    return [
        NonlinearMeasurement(cubed, (1,), torch.tensor([[2.4], [4.2]]).double(), std=0.5),
        PoissonMeasurement(EVERY, torch.tensor([[0.75], [2.0]]).double(), gain=0.25),
    ]


def by_quadrature(model: GaussianMixture, seen: Any) -> tuple[Tensor, Tensor, Tensor]:
    """log p(y), and the mean and the standard deviation of x_0 given y, for each of two values."""
    x = torch.linspace(-1, 5, 20_001, dtype=torch.float64).unsqueeze(1)
    rows = []
    for k in range(2):
        log = model.log_prob(x) + seen.select(torch.full((len(x),), k)).log_prob(x)
        weights = log.softmax(0)
        mean = (weights * x[:, 0]).sum()
        std = (weights * (x[:, 0] - mean).square()).sum().sqrt()
        rows.append(torch.stack([log.logsumexp(0) + torch.log(x[1, 0] - x[0, 0]), mean, std]))
    return tuple(torch.stack(rows).T)


@pytest.mark.parametrize("seen", measurements(), ids=lambda seen: type(seen).__name__)
def test_particles_find_the_posterior_and_its_evidence(seen: Any) -> None:
    """Within the interval that they state, and 4.5 standard errors of the effective sample size."""
    model = bumps()
    evidence, mean, std = by_quadrature(model, seen)
    found = particles(TMPD(model, seen), (1,), observations=2, particles=400, steps=60, measure_discretisation=True)
    low, high = found.interval(0.999)
    assert bool(((low <= evidence) & (evidence <= high)).all()) and float((high - low).max()) < 0.4
    weights = found.log_weights.exp()
    at = (weights * found.x[..., 0]).sum(1)
    error = 4.5 * std / found.effective_sample_size.sqrt() + 0.02
    assert bool(((at - mean).abs() < error).all())
    spread = (weights * (found.x[..., 0] - at.unsqueeze(1)).square()).sum(1).sqrt() / std
    assert float((spread - 1).abs().max()) < 0.1


@pytest.mark.parametrize("seen", measurements(), ids=lambda seen: type(seen).__name__)
def test_tmpd_moves_the_mean_towards_the_posterior(seen: Any) -> None:
    """It is an approximation: more than half of the way from the mean of the prior to that of the posterior."""
    model = bumps()
    _, mean, _ = by_quadrature(model, seen)
    prior = float(model.data_moments.mean)
    for k in range(2):
        one = seen.select(torch.full((300,), k))
        x = sample(TMPD(model, one), Adams(steps=20), (300, 1), seed=0, dtype=torch.float64)
        assert abs(float(x.mean()) - float(mean[k])) < 0.5 * abs(prior - float(mean[k])) + 0.1


def test_dps_points_along_the_gradient_of_the_standardised_residual() -> None:
    """For counts: D + V r/max(r^2, gain D + V), where f' = 1, m = 1, and gain D is the variance of y at D."""
    model = GaussianMixture(torch.tensor([[1.0]]).double(), 0.4, sde=VP())
    seen, x = measurements()[1], torch.tensor([[0.3], [1.1]]).double()
    t = torch.tensor(0.4, dtype=torch.float64)
    denoised, (alpha, sigma) = model.denoise(x, t), (model.sde.alpha(t), model.sde.sigma(t))
    variance = 0.4 * sigma**2 / (alpha**2 * 0.4 + sigma**2)
    r = seen.value - denoised
    expected = denoised + variance * r / torch.maximum(r.square(), seen.variance(denoised) + variance)
    torch.testing.assert_close(DPS(model, seen).denoise(x, t), expected)


def test_poisson_is_that_of_scipy_and_its_prediction_the_negative_binomial() -> None:
    x = torch.tensor([[0.5], [3.0], [40.0]]).double()
    seen = PoissonMeasurement(EVERY, torch.tensor([[2.0], [0.0], [44.0]]).double(), gain=2.0)
    n, mu = torch.tensor([1.0, 0.0, 22.0]), x[:, 0] / 2
    torch.testing.assert_close(seen.log_prob(x), torch.from_numpy(scipy.stats.poisson.logpmf(n, mu)))
    for spread in (1e-2, 0.3, 50.0):
        r = mu**2 / (spread / 4)
        expected = torch.from_numpy(scipy.stats.nbinom.logpmf(n, r, r / (r + mu)))
        found = seen.log_predictive(x, torch.full_like(x, spread))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for spread in (1e-9, 1e-5):  # next to Poisson's law, where the formula changes
        found = seen.log_predictive(x, torch.full_like(x, spread))
        torch.testing.assert_close(found, seen.log_prob(x), rtol=0, atol=20 * spread)
    assert bool(seen.log_prob(-x).isfinite().all())


def test_linear_measurements_are_the_same_either_way() -> None:
    """f(x) = A x with normal noise: guides and twists of both kinds of measurement."""
    model = bumps()
    y, x = torch.tensor([[1.7], [2.0]]).double(), torch.tensor([[0.3], [1.1]]).double()
    linear, other = Measurement(EVERY, y, std=0.4), NonlinearMeasurement(EVERY, (1,), y, std=0.4)
    t = torch.tensor(0.3, dtype=torch.float64)
    for one, two in zip(TMPD(model, linear).twist(x, t), TMPD(model, other).twist(x, t), strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(DPS(model, linear).denoise(x, t), DPS(model, other).denoise(x, t))
    torch.testing.assert_close(linear.log_prob(x), other.log_prob(x))
    exact = MMPS(model, linear, iterations=None).twist(x, t)  # one component: the sums are the matrix
    torch.testing.assert_close(TMPD(model, linear).twist(x, t).log_twist, exact.log_twist)


@pytest.mark.parametrize("guide", [MMPS, PiGDM, JFPS, DiffPIR])
def test_guides_for_linear_measurements_refuse_others_by_name(guide: Any) -> None:
    words = f"expected a Measurement, got PoissonMeasurement, which {guide.__name__} cannot use; DPS and TMPD can"
    with pytest.raises(TypeError, match=words):
        guide(bumps(), measurements()[1])


def test_what_is_wrong_is_named() -> None:
    y = torch.ones(1).double()
    with pytest.raises(ValueError, match=r"value: expected shape \[1\]"):
        NonlinearMeasurement(cubed, (1,), torch.ones(3, 2).double(), std=1.0)
    with pytest.raises(ValueError, match=r"^value: expected finite numbers, got inf"):
        NonlinearMeasurement(cubed, (1,), y / 0, std=1.0)
    with pytest.raises(ValueError, match="std: expected a positive number"):
        NonlinearMeasurement(cubed, (1,), y, std=0.0)
    with pytest.raises(ValueError, match="gain"):
        PoissonMeasurement(EVERY, y, gain=0.0)
    for wrong in (y + 0.5, -y):
        with pytest.raises(ValueError, match="value: expected counts times the gain 1"):
            PoissonMeasurement(EVERY, wrong)
    correlated = Measurement(EVERY, y, covariance=torch.eye(1).double())
    with pytest.raises(ValueError, match="measurement: expected independent noise"):
        TMPD(bumps(), correlated).twist(y.unsqueeze(0), torch.tensor(0.3).double())
