"""DDRM: the law of its own chain for normal data in closed form, and where it is the posterior and where not."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture, Mask, Measurement, NonlinearMeasurement, Projection
from backdrift.sde import VE, VP, GaussianSDE
from backdrift.solvers import DDRM, sample
from backdrift.solvers.tables.grid import time_grid

MEAN, VARIANCE = torch.tensor([0.5, -1.0, 0.2]).double(), torch.tensor([0.6, 1.5, 0.9]).double()
N = 20_000


def normal(sde: GaussianSDE) -> GaussianMixture:
    return GaussianMixture(MEAN.unsqueeze(0), VARIANCE.unsqueeze(0), sde=sde)


def law(solver: DDRM, model: GaussianMixture, y: list[float], scales: list[float]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each component of the chain's end, for y_i = scale_i x_i + noise; scale 0 is not seen.

    Each link is linear in the component: at' = slope at + offset + N(0, added).
    """
    sde = model.sde
    times = time_grid("karras", sde, solver.steps, sde.eps, model.data_std)
    levels = (sde.sigma(times) / sde.alpha(times)).tolist()
    found = []
    for i, scale in enumerate(scales):
        m, c = float(MEAN[i]), float(VARIANCE[i])
        r = float(solver.measurement.std) / scale if scale else math.inf  # type: ignore[arg-type]
        target = y[i] / scale if scale else 0.0
        prior = model.data_moments
        alpha = float(sde.alpha(times[0]))
        mean, var = float(prior.mean[i]), float(prior.variance[i]) + (float(sde.sigma(times[0])) / alpha) ** 2
        if r < levels[0]:
            mean, var = target, levels[0] ** 2 - r**2
        for before, after in pairwise(levels):
            gain = c / (c + before**2)
            d = (gain, (1 - gain) * m)
            keep = math.sqrt(1 - solver.eta**2) * after
            if not scale:
                slope, offset, added = (
                    d[0] + keep / before * (1 - d[0]),
                    d[1] * (1 - keep / before),
                    (solver.eta * after) ** 2,
                )
            elif after < r:
                slope, offset = d[0] * (1 - keep / r), d[1] * (1 - keep / r) + keep / r * target
                added = (solver.eta * after) ** 2
            else:
                slope = (1 - solver.eta_b) * d[0]
                offset = (1 - solver.eta_b) * d[1] + solver.eta_b * target
                added = after**2 - (solver.eta_b * r) ** 2
            mean, var = slope * mean + offset, slope**2 * var + added
        gain = c / (c + levels[-1] ** 2)
        found.append((gain * mean + (1 - gain) * m, gain**2 * var))
    return tuple(torch.tensor(found).double().T)


@pytest.mark.parametrize("sde", [VP(), VE()], ids=repr)
@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.3, 0.6), (0.0, 1.0)])
def test_samples_have_the_law_of_the_chain(sde: GaussianSDE, eta: float, eta_b: float) -> None:
    """Components that are seen well, badly and not at all, in 12 steps: 4.5 standard errors of 20,000 samples."""
    model = normal(sde)
    rows = torch.tensor([[0.0, 2.0, 0.0], [0.5, 0.0, 0.0]]).double()
    seen = Measurement(Projection(rows), torch.tensor([1.6, 0.9]).double(), std=0.2)
    solver = DDRM(measurement=seen, steps=12, eta=eta, eta_b=eta_b)
    x = sample(model, solver, (N, 3), seed=1, dtype=torch.float64)
    mean, variance = law(solver, model, [0.9, 1.6, 0.0], [0.5, 2.0, 0.0])
    assert float(((x.mean(0) - mean).abs() / (variance / N).sqrt()).max()) < 4.5
    assert float((x.var(0) / variance - 1).abs().max()) < 4.5 * math.sqrt(2 / N)


def test_it_is_the_posterior_of_exact_values_of_independent_components() -> None:
    """Without noise and with eta = 0 the component that is seen is y, and the others keep their own density."""
    model = normal(VP())
    seen = Measurement(Mask(torch.tensor([False, True, False])), torch.tensor([0.7]).double(), std=0.0)
    x = sample(model, DDRM(measurement=seen, steps=100, eta=0.0), (N, 3), seed=1, dtype=torch.float64)
    exact = model.given(seen).data_moments
    torch.testing.assert_close(x[:, 1], torch.full((N,), 0.7).double())
    error = (exact.variance / N).sqrt()
    assert bool(((x.mean(0) - exact.mean).abs() <= 4.5 * error + 1e-9).all())
    assert float((x.var(0)[[0, 2]] / exact.variance[[0, 2]] - 1).abs().max()) < 4.5 * math.sqrt(2 / N) + 0.02


def test_it_is_not_the_posterior_where_it_says_so() -> None:
    """With noise as large as the data the variance of the posterior is missed by more than a third."""
    model = normal(VP())
    seen = Measurement(Mask(torch.tensor([True, False, False])), torch.tensor([1.5]).double(), std=0.8)
    x = sample(model, DDRM(measurement=seen, steps=100), (2000, 3), seed=1, dtype=torch.float64)
    exact = model.given(seen).data_moments
    assert float(x.var(0)[0] / exact.variance[0]) < 0.67


def test_one_value_for_each_sample_and_what_is_refused() -> None:
    model, mask = normal(VP()), Mask(torch.tensor([False, True, False]))
    seen = Measurement(mask, torch.tensor([[0.7], [-2.0]]).double(), std=0.0)
    x = sample(model, DDRM(measurement=seen, steps=5), (2, 3), seed=1, dtype=torch.float64)
    torch.testing.assert_close(x[:, 1], torch.tensor([0.7, -2.0]).double())
    with pytest.raises(ValueError, match="measurement: expected one value, or one for each of 3 samples, got 2"):
        sample(model, DDRM(measurement=seen), (3, 3))
    with pytest.raises(ValueError, match="measurement: expected one standard deviation"):
        DDRM(measurement=Measurement(mask, torch.zeros(1).double(), covariance=torch.eye(1).double()))
    with pytest.raises(ValueError, match="eta: expected"):
        DDRM(measurement=seen, eta=1.5)
    flat = Measurement(Mask(torch.tensor([[True, False, False]])), torch.zeros(1).double(), std=0.1)
    with pytest.raises(ValueError, match=r"measurement: expected an operator on samples \[3\], got one on \[1, 3\]"):
        sample(model, DDRM(measurement=flat), (2, 3))
    cubes: Any = NonlinearMeasurement(lambda x: x**3, (3,), torch.zeros(3).double(), 0.1)
    with pytest.raises(ValueError, match="measurement: expected a linear one with normal noise"):
        DDRM(measurement=cubes)
