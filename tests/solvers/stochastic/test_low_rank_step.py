"""Particles whose kernels have a few axes of the covariance: exact where these are all that the data have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import MMPS, GaussianMixture, Measurement, Projection
from backdrift.models.guides.low_rank import low_rank
from backdrift.sde import VP
from backdrift.solvers import particles
from backdrift.solvers.stochastic.low_rank_step import LowRankStep

REST = 0.2


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_axes(d: int, r: int) -> Tensor:
    """A covariance with r axes of their own, and the variance REST of all other directions."""
    axes = torch.linalg.qr(draws(d, r, seed=3))[0]
    return axes @ torch.diag(torch.linspace(0.8, 2.0, r).double()) @ axes.mT + REST * torch.eye(d).double()


NOISES: dict[str, Any] = {
    "independent": {"std": 0.3},
    "of each component": {"std": torch.linspace(0.2, 0.6, 3).double()},
    "correlated": {"covariance": 0.1 * torch.eye(3).double() + 0.05},
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("d", [3, 2], ids=["as many numbers as components", "more numbers than components"])
def test_exact_for_normal_data(noise: str, d: int) -> None:
    """k = d - 1 axes and the variance of the last direction are any covariance. Then the weights do not change on the
    way, as with the full kernel, whose test derives the tolerances: what is left is x_T."""
    covariance = with_axes(d, d - 1)
    model = GaussianMixture(torch.linspace(0.2, 0.6, d).double().unsqueeze(0), covariance.unsqueeze(0), sde=VP())
    rows = draws(3, d, seed=5)
    values = model.sample(2, torch.Generator().manual_seed(4)) @ rows.mT + 0.3 * draws(2, 3, seed=9)
    measurement = Measurement(Projection(rows), values, **NOISES[noise])
    guide = MMPS(model, measurement, iterations=None)
    found = particles(guide, (d,), observations=2, particles=500, steps=5, kernel="low_rank", rank=d - 1)
    assert bool((found.effective_sample_size > 0.9995 * 4000).all())
    assert float((found.log_evidence - model.log_evidence(measurement)).abs().max()) < 2e-3
    posterior = model.given(measurement).data_moments
    assert posterior is not None
    error = 4.5 * (posterior.variance / 4000).sqrt()
    assert bool(((found.x.mean(1) - posterior.mean).abs() < error).all())
    spread = found.x.var(1) / posterior.variance - 1
    assert float(spread.abs().max()) < 4.5 * math.sqrt(2 / 4000) + 0.01  # the last state's mean stands for a draw


def test_exact_in_many_dimensions() -> None:
    """Normal data with three axes in 40-D: the axes are found on the way, and the weights stay equal but for x_T."""
    model = GaussianMixture(torch.zeros(1, 40).double(), with_axes(40, 3).unsqueeze(0), sde=VP())
    rows = draws(12, 40, seed=5) / math.sqrt(12)
    value = rows @ model.sample(1, torch.Generator().manual_seed(4))[0] + 0.1 * draws(12, seed=9)
    measurement = Measurement(Projection(rows), value, std=0.1)
    guide = MMPS(model, measurement, iterations=None)
    found = particles(guide, (40,), particles=64, steps=20, kernel="low_rank", rank=3)
    assert float(found.effective_sample_size) > 0.999 * 512
    assert (
        float((found.log_evidence - model.log_evidence(measurement)).abs()) < 4.5 * float(found.standard_error) + 2e-3
    )


def test_weights_are_those_of_the_kernel() -> None:
    """The mean weight of a step is the mean of p(y | x_s)/p(y | x_t) over the kernel, for every covariance of it.

    One state of a mixture in 4-D with one axis, which is far from enough. 20,000 draws each, 4.5 standard errors.
    """
    mixture = GaussianMixture(draws(3, 4, seed=1), with_axes(4, 2).expand(3, 4, 4), sde=VP())
    measurement = Measurement(Projection(draws(2, 4, seed=2)), draws(2, seed=7), std=0.4)
    step = LowRankStep(MMPS(mixture, measurement, iterations=None), (4,), rank=1)
    n, t, s = 20_000, torch.tensor(0.5).double(), torch.tensor(0.4).double()
    x = draws(1, 4, seed=8).expand(n, 4)
    at = step.look(x, t)
    change = step(x, at, t, s, draws(3, n, 4, seed=11))[2].exp()
    mean, std = mixture.sde.bridge(x, at.denoised, s, t)
    pull = mixture.sde.bridge(torch.zeros(1, 1).double(), torch.ones(1, 1).double(), s, t)[0]
    v = at.rest[0] * torch.eye(4).double() + (at.axes[0] * (at.variances[0] - at.rest[0])) @ at.axes[0].mT
    root = torch.linalg.cholesky(std.flatten()[0] ** 2 * torch.eye(4).double() + pull.flatten()[0] ** 2 * v)
    kernel = step.look(mean + draws(n, 4, seed=12) @ root.mT, s, at.axes)
    plain = (step.log_twist(kernel) - step.log_twist(at)).exp()
    error = ((change.var() + plain.var()) / n).sqrt()
    assert float((change.mean() - plain.mean()).abs()) < 4.5 * float(error) < 0.1 * float(plain.mean())
    assert float(change.std()) < float(plain.std())


def test_axes_and_the_rest_of_a_matrix() -> None:
    """Axes converge to those of the largest eigenvalues. Fresh directions that are a basis give the trace exactly."""
    matrix = with_axes(30, 4) + torch.diag(torch.linspace(0, 0.1, 30).double())
    values, axes = torch.linalg.eigh(matrix)
    probes, basis = draws(1, 30, 4, seed=1), torch.eye(30).double().unsqueeze(0)
    for _ in range(4):
        probes, found, rest = low_rank(lambda z: matrix @ z, probes, basis)
    torch.testing.assert_close(found[0], values[-4:])
    torch.testing.assert_close(rest[0], values[:-4].mean())
    torch.testing.assert_close((probes[0].mT @ axes[:, -4:]).abs(), torch.eye(4).double(), rtol=0, atol=1e-6)


def test_the_rest_is_that_of_the_fresh_directions() -> None:
    """Of axes that have not converged too: o . V o/|o|^2 over the parts o of fresh directions outside the axes.

    No axis has less than the rest, though V has directions with less.
    """
    matrix = torch.cat([torch.full((10,), 0.1).double(), torch.linspace(1, 2, 20).double()]).diag()
    probes, fresh = torch.eye(30).double()[None, :, :2], draws(1, 30, 1, seed=6)
    axes, variances, rest = low_rank(lambda z: matrix @ z, probes, fresh)
    outside = fresh - axes @ (axes.mT @ fresh)
    torch.testing.assert_close(rest[0], (outside * (matrix @ outside)).sum() / outside.square().sum())
    assert float((axes.mT @ matrix @ axes).diagonal(dim1=1, dim2=2).min()) < 0.2 < float(rest) <= float(variances.min())
