"""Calibrated intervals of the solver's error hold as often as they claim, for closed forms and for networks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backdrift import ScoreDensity
from backdrift.models import GaussianMixture
from backdrift.sde import VP
from backdrift.solvers import calibrate, log_likelihood
from backdrift.solvers.density.calibration import conformal


def mixture(dim: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(4, dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    means = torch.randn(4, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture(means, 0.3 * root @ root.mT + 0.02 * torch.eye(dim).double(), sde=VP())


def states(model: GaussianMixture, n: int, seed: int = 0) -> Tensor:
    """Draws of x_eps."""
    generator = torch.Generator().manual_seed(seed)
    x = model.sample(n, generator)
    return model.sde.perturb(x, model.sde.eps, torch.randn(x.shape, generator=generator, dtype=x.dtype))


def truth(model: GaussianMixture) -> Any:
    """The true p_T in place of the prior, so that the solver makes the only error."""
    return SimpleNamespace(log_prob=lambda x: model.log_prob(x, model.sde.T))


def test_conformal_is_the_order_statistic() -> None:
    scores = torch.arange(1.0, 20.0)[torch.randperm(19, generator=torch.Generator().manual_seed(0))]
    assert conformal(scores, 0.95) == 19
    assert conformal(scores, 0.5) == 10
    with pytest.raises(ValueError, match="at least 19 samples"):
        conformal(scores[:18], 0.95)
    with pytest.raises(ValueError, match="level"):
        conformal(scores, 1.0)


def test_conformal_covers_a_new_score() -> None:
    """For a law that is far from normal. Each of 20 000 sets of 39 scores is tried on one new score, which at level
    0.95 is covered with probability 38/40.
    """
    draws = torch.randn(20_000, 40, generator=torch.Generator().manual_seed(1)).exp()
    held = [new <= conformal(row, 0.95) for row, new in zip(draws[:, 1:], draws[:, 0].tolist(), strict=True)]
    assert abs(float(np.mean(held)) - 0.95) < 4 * (0.95 * 0.05 / 20_000) ** 0.5


def test_a_factor_is_recorded_and_scales() -> None:
    model = mixture(2)
    x = states(model, 40)
    settings: dict[str, Any] = {"probes": "exact", "steps": 8, "prior": truth(model)}
    factor = calibrate(model, x, **settings)
    plain, scaled = log_likelihood(model, x, **settings), log_likelihood(model, x, calibration=factor, **settings)
    torch.testing.assert_close(scaled.solver_error, factor * plain.solver_error)
    assert torch.equal(scaled.log_prob, plain.log_prob)
    assert scaled.calibration == factor
    assert f"times {factor:.2g}" in str(scaled) and "times" not in str(plain)
    alone = log_likelihood(model, x[3:4], first=3, calibration=factor, **settings)
    torch.testing.assert_close(alone.solver_error, scaled.solver_error[3:4], rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="probes"):
        calibrate(model, x, steps=8)
    with pytest.raises(ValueError, match="calibration: expected none"):
        calibrate(model, x, **settings | {"calibration": 0.5})
    with pytest.raises(ValueError, match="estimate_error: expected True or 'coarser' for a calibration, got False"):
        calibrate(model, x, **settings | {"estimate_error": False})


@pytest.mark.parametrize("sign", [-1, 1])
def test_errors_of_either_sign_count_alike(sign: int) -> None:
    """The errors of all samples that calibrate have one sign. The factor holds the true errors of 95% of them."""
    model = mixture(2)
    x = states(model, 400)
    settings: dict[str, Any] = {"probes": "exact", "steps": 8, "prior": truth(model)}
    stated = log_likelihood(model, x, **settings)
    off = stated.log_prob - model.log_prob(x, model.sde.eps)
    chosen = sign * off > 0
    n = int(chosen.sum())
    assert n > 60
    factor = calibrate(model, x[chosen], **settings)
    # The finer solve that stands for the truth has itself some hundredths of the error.
    fewer, more = (int((off[chosen].abs() <= s * factor * stated.solver_error[chosen]).sum()) for s in (0.95, 1.05))
    assert fewer <= math.ceil(0.95 * (n + 1)) <= more


def covered(model: Any, x: Tensor, true: Tensor, **settings: Any) -> tuple[float, float, float]:
    """How often intervals that are calibrated on the first half of x hold the truth on the second half.

    Returns that share, the mean width of the intervals divided by the mean error, and the same for the bound without a
    factor.
    """
    half = len(x) // 2
    settings |= {"probes": "exact"}
    factor = calibrate(model, x[:half], **settings)
    found = log_likelihood(model, x[half:], calibration=factor, **settings)
    off = (found.log_prob - true[half:]).abs()
    width = float(found.solver_error.mean() / off.mean())
    return float((off <= found.solver_error).double().mean()), width, width / factor


MIXTURES = [
    {"method": "rk4", "steps": 16},
    {"method": "rk4", "steps": 16, "divergences": 24, "estimate_error": "coarser"},
    {"method": "score_corrected", "steps": 32},
    {"method": "score_corrected", "steps": 64},
    {"method": "adaptive", "rtol": 1e-3, "atol": 1e-3},
]


@pytest.mark.parametrize("settings", MIXTURES[:3])
def test_intervals_cover(settings: dict[str, Any]) -> None:
    """200 samples calibrate and 200 are tried, so that the share covered has a standard deviation of 0.022."""
    model = mixture(8)
    x = states(model, 400)
    share = covered(model, x, model.log_prob(x, model.sde.eps), prior=truth(model), **settings)[0]
    assert 0.95 - 3 * 0.022 <= share <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("settings", MIXTURES)
def test_intervals_cover_as_often_as_they_say(settings: dict[str, Any]) -> None:
    """Measured: 93.8%, 94.5%, 95.2% and 94.5%, with intervals 0.6, 0.26, 0.5 and 0.55 times as wide as the bound.

    2000 samples calibrate and 2000 are tried, so that the share covered has a standard deviation of 0.007.
    """
    model = mixture(8)
    x = states(model, 4000, seed=3)
    share, width, bound = covered(model, x, model.log_prob(x, model.sde.eps), prior=truth(model), **settings)
    print(f"{settings}: {share:.3f} covered, width {width:.2f} times the mean error, of the bound {bound:.2f}")
    assert 0.93 <= share <= 0.97
    assert width < bound


@pytest.mark.slow
def test_intervals_cover_on_a_network() -> None:
    """Measured: 94.4% and 96.4%. Without the factor the bound is 3 and 1.6 times too narrow for 95%.

    The model is a fitted ScoreDensity. 1000 draws of the data calibrate and 1000 are tried; a solve with 128 steps
    stands for the truth.
    """
    g = torch.Generator().manual_seed(0)
    data = GaussianMixture(torch.tensor([[-2.0, 0, 0], [2, 1, 0], [0, -2, 1]]).double(), 0.2, sde=VP())
    rows = data.sample(3000, g).numpy()
    density = ScoreDensity(steps=600, hidden=64, random_state=0).fit(rows[:1000])
    assert density.gain_ > 0.1  # it is not the normal density that it starts from
    z = torch.from_numpy((rows[1000:] - density.mean_) / density.scale_ @ density.whitening_.T)
    eps, alpha = density._end()
    fine: dict[str, Any] = {"steps": 128, "divergences": 256, "estimate_error": False, "probes": "exact", "eps": eps}
    true = log_likelihood(density.model_, alpha * z, **fine).log_prob
    for settings in ({"method": "rk4", "steps": 16}, {"method": "score_corrected", "steps": 48}):
        share, width, bound = covered(density.model_, alpha * z, true, eps=eps, **settings)
        print(f"{settings}: {share:.3f} covered, width {width:.2f} times the mean error, of the bound {bound:.2f}")
        assert 0.93 <= share <= 0.97


@pytest.mark.parametrize("method", ["adaptive", "rk4"])
def test_a_flow_that_is_solved_without_error_has_a_factor(method: str) -> None:
    """VP keeps N(0, 1), whose flow stands still. The ratio of errors of 0 was NaN, which is refused."""
    normal = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 1.0, sde=VP())
    x = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factor = calibrate(normal, x, probes="exact", method=method)
    found = log_likelihood(normal, x, probes="exact", method=method, calibration=factor)  # type: ignore[arg-type]
    exact = torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    assert bool(((found.log_prob - exact).abs() < 4 * found.prior_error + 1e-8).all())
    assert 0 < factor < math.inf
