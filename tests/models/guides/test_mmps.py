"""MMPS is exact for normal data: its denoiser, and its density of the measurement given the state."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import MMPS, GaussianMixture, Measurement, Projection
from backdrift.sde import VE, VP, GaussianSDE, Rectified
from backdrift.solvers import DDIM, sample

MEASURED, SIZE = 3, 6


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal_data(sde: GaussianSDE) -> GaussianMixture:
    root = draws(SIZE, SIZE)
    return GaussianMixture(draws(1, SIZE, seed=1), (root @ root.mT / SIZE + 0.02 * torch.eye(SIZE))[None], sde=sde)


def measurement(batch: int) -> Measurement:
    root = draws(MEASURED, MEASURED, seed=2)
    noise = 0.1 * root @ root.mT + 0.01 * torch.eye(MEASURED)
    return Measurement(Projection(draws(MEASURED, SIZE, seed=3)), draws(batch, MEASURED, seed=4), covariance=noise)


@pytest.mark.parametrize(
    "settings", [{"iterations": 30, "tolerance": 1e-13}, {"iterations": None}], ids=["cg", "exact"]
)
@pytest.mark.parametrize("sde", [VP(), VE(), Rectified()], ids=repr)
def test_its_denoiser_is_that_of_the_posterior(sde: GaussianSDE, settings: dict[str, Any]) -> None:
    """At every time, for correlated data and correlated noise, to 1e-8."""
    prior, seen = normal_data(sde), measurement(5)
    guide, exact = MMPS(prior, seen, **settings), prior.given(seen)
    for share in (1e-3, 0.05, 0.3, 0.7, 1.0):
        t = torch.tensor(share * sde.T, dtype=torch.float64)
        x = sde.perturb(draws(5, SIZE, seed=5), t, draws(5, SIZE, seed=6))
        torch.testing.assert_close(guide.denoise(x, t), exact.denoise(x, t), rtol=1e-8, atol=1e-8)
    each = torch.linspace(0.1, 0.9, 5, dtype=torch.float64) * sde.T
    torch.testing.assert_close(guide.denoise(x, each), exact.denoise(x, each), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sde", [VP(), VE()], ids=repr)
def test_its_twist_is_the_density_of_the_measurement(sde: GaussianSDE) -> None:
    """log p(y | x_t) = log p(x_t | y) - log p(x_t) + log p(y)."""
    prior, seen = normal_data(sde), measurement(5)
    posterior = prior.given(seen)
    for share in (0.05, 0.3, 1.0):
        t = torch.tensor(share * sde.T, dtype=torch.float64)
        x = sde.perturb(draws(5, SIZE, seed=5), t, draws(5, SIZE, seed=6))
        expected = posterior.log_prob(x, t) - prior.log_prob(x, t) + prior.log_evidence(seen)
        found = MMPS(prior, seen, iterations=None).twist(x, t)
        torch.testing.assert_close(found.log_twist, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.denoised, prior.denoise(x, t))


def test_a_sample_is_guided_by_its_own_residual_alone() -> None:
    """Few iterations and a loose tolerance, where samples stop at different times."""
    prior, seen = normal_data(VP()), measurement(5)
    x, t = draws(5, SIZE, seed=5), torch.tensor(0.4).double()
    for tolerance in (0.3, 1e-2):
        guide = MMPS(prior, seen, iterations=3, tolerance=tolerance)
        whole = guide.denoise(x, t)
        for i in range(5):
            alone = guide.select(torch.tensor([i])).denoise(x[i : i + 1], t)
            torch.testing.assert_close(alone, whole[i : i + 1], rtol=1e-10, atol=1e-12)


def test_any_solver_takes_it() -> None:
    """Samples of one solve with DDIM, in float64, have the posterior's mean and variance: four standard errors."""
    sde = VP()
    prior = normal_data(sde)
    seen = Measurement(Projection(draws(MEASURED, SIZE, seed=3)), draws(MEASURED, seed=4), std=0.2)
    moments = prior.given(seen).data_moments
    x = sample(MMPS(prior, seen, iterations=None), DDIM(steps=120), (3000, SIZE), dtype=torch.float64)
    # 120 first-order steps leave 0.03 deviations, as the exact posterior shows at the same steps.
    other = sample(prior.given(seen), DDIM(steps=120), (3000, SIZE), dtype=torch.float64)
    std = moments.variance.sqrt()
    assert bool(((x.mean(0) - other.mean(0)).abs() < 1e-6 + 4 * std / 3000**0.5).all())
    assert bool(((x.mean(0) - moments.mean).abs() < (4 / 3000**0.5 + 0.05) * std).all())
    assert bool(((x.std(0) / std - 1).abs() < 4 / 6000**0.5 + 0.05).all())


def test_gradients_pass_through_it() -> None:
    """d(guided D)/dx for normal data is that of the posterior: a constant matrix."""
    prior, seen = normal_data(VP()), measurement(1)
    guide = MMPS(prior, seen, iterations=30, tolerance=1e-13)
    t, x = torch.tensor(0.4).double(), draws(1, SIZE, seed=5)
    found, expected = (
        torch.autograd.functional.jacobian(lambda z, m=m: m.denoise(z, t)[0], x)[:, 0]
        for m in (guide, prior.given(seen))
    )
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_what_is_wrong_is_named() -> None:
    prior, seen = normal_data(VP()), measurement(1)
    with pytest.raises(TypeError, match=r"^measurement: expected a Measurement, got Tensor"):
        MMPS(prior, draws(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^model: expected an object with `sde` and `denoise\(x, t\)`"):
        MMPS(SimpleNamespace(), seen)
    with pytest.raises(ValueError, match=r"^iterations: expected"):
        MMPS(prior, seen, iterations=0)


class Reversed:
    """A denoiser whose Jacobian is negative along the second component, as that of a network may be."""

    data_std = 1.0

    def __init__(self) -> None:
        self.sde = VP()

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return x * torch.tensor([0.5, -0.3], dtype=x.dtype)


@pytest.mark.parametrize("iterations", [None, 5])
def test_a_covariance_that_is_not_positive_leaves_its_directions_out(iterations: int | None) -> None:
    """V = (sigma^2/alpha) diag(0.5, -0.3). The first component is shifted as by a variance, the second one is not.

    R + A V A^T is nearly singular along the second one, where an inverse would be 10^4 times too large.
    """
    sde, t = VP(), torch.tensor(0.4, dtype=torch.float64)
    gain = float(sde.sigma(t) ** 2 / sde.alpha(t))
    std = torch.tensor([0.3, (0.3 * gain) ** 0.5 * (1 + 1e-5)], dtype=torch.float64)
    x, y = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([2.0, 2.0]).double()
    for rows in (torch.eye(2).double(), torch.eye(2).double()[1:]):
        seen = Measurement(Projection(rows), y[: len(rows)], std=std[-len(rows) :])
        found = MMPS(Reversed(), seen, iterations=iterations).denoise(x, t)
        v = 0.5 * gain
        first = 0.5 + (v / (v + 0.09) * 1.5 if len(rows) == 2 else 0.0)
        if iterations is not None:  # the linear solver mixes the two, and its answer is shortened
            assert float(found.abs().max()) < 10
            continue
        torch.testing.assert_close(found, torch.tensor([[first, -0.3]]).double())
