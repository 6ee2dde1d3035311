"""Diagnostics that vanish for exact scores, and are the size a formula says for wrong ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture, diagnose_score, score_residual
from backdrift.models.score_identities import curl, relative_size
from backdrift.sde import VE, VP, CriticallyDamped, GaussianSDE, OrnsteinUhlenbeck, StationarySDE, SubVP, Time, as_time


class Scored:
    """A function as a score."""

    def __init__(self, sde: Any, score: Callable[[Tensor, Time], Tensor]) -> None:
        self.sde, self.score = sde, score


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(sde: GaussianSDE) -> GaussianMixture:
    root = randn(3, 2, 2, seed=1)
    return GaussianMixture(randn(3, 2), 0.1 * root @ root.mT + 0.05 * torch.eye(2).double(), sde=sde)


@pytest.mark.parametrize(
    "sde", [VP(), VE(sigma_max=10.0), SubVP(), OrnsteinUhlenbeck()], ids=lambda s: type(s).__name__
)
def test_an_exact_score_has_no_residual(sde: GaussianSDE) -> None:
    model, t = mixture(sde), torch.tensor([0.05, 0.2, 0.4, 0.7], dtype=torch.float64) * sde.T
    found = score_residual(model, randn(4, 2, seed=2), t)
    assert float((found.residual.abs() / (1 + found.rate.abs())).max()) < 1e-8
    assert found.relative < 1e-8


def test_a_scaled_score_has_the_residual_of_the_formula() -> None:
    """Standard normal data under VP stay N(0, 1), a = 1. For s = -k x: ds/dt = 0 and, with f = -b x, g^2 = 2b,
    grad h = 2 b k^2 x - 2 b k x, so that the residual is 2 b k (1 - k) x."""
    sde, k, x = VP(), 1.3, randn(5, 3)
    t = torch.tensor(0.4, dtype=torch.float64)
    found = score_residual(Scored(sde, lambda x, t: -k * x + 0 * as_time(t, x)), x, t)
    torch.testing.assert_close(found.residual, float(sde.beta(t)) * k * (1 - k) * x, rtol=1e-10, atol=1e-12)


def test_probes_estimate_the_exact_residual() -> None:
    """For a score with a wrong clock: the mean over many probes, within standard errors."""
    model = mixture(VP())
    late = Scored(VP(), lambda x, t: model.score(x, 0.8 * torch.as_tensor(t)))
    x = randn(1, 2, seed=3)
    exact = score_residual(late, x, 0.3).residual
    assert float(exact.abs().max()) > 0.1
    n = 4000
    drawn = score_residual(late, x.expand(n, -1), 0.3, probes=1, generator=torch.Generator().manual_seed(0)).residual
    assert float(((drawn.mean(0) - exact) / (drawn.std(0) / math.sqrt(n))).abs().max()) < 4


def test_a_matrix_process_has_a_residual_too() -> None:
    """CLD of normal data, whose score is linear: zero for it, not for one with a wrong clock."""
    sde, start = CriticallyDamped(), torch.tensor([[0.3, 0.0], [0.0, 0.0]], dtype=torch.float64)

    def score(x: Tensor, t: Time) -> Tensor:
        phi, _ = sde.moments(0.0, t)
        return -torch.linalg.solve(phi @ start @ phi.mT + sde.covariance_at(t), x.unsqueeze(-1)).squeeze(-1)

    x, t = randn(4, 2), torch.tensor(0.3, dtype=torch.float64)
    assert score_residual(Scored(sde, score), x, t).relative < 1e-9
    assert score_residual(Scored(sde, lambda x, t: score(x, 1.2 * t)), x, t).relative > 0.01


@pytest.mark.parametrize("omega", [0.0, 0.3, 2.0])
def test_curl_is_the_formula(omega: float) -> None:
    """s = -a x + omega R x has J = -a + omega R: |J - J^T|^2 = 8 omega^2 and |2J|^2 = 8 (a^2 + omega^2)."""
    a, x = 0.7, randn(6, 2)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    expected = omega / math.hypot(a, omega)
    for probes in ("exact", 3):  # in two dimensions signs are exact here: J - J^T is one number
        found = curl(lambda x: -a * x + omega * x @ turn.mT, x, probes, torch.Generator().manual_seed(0))
        assert found.value == pytest.approx(expected, abs=1e-12)
        assert found.error < 1e-7  # the same at every sample


def test_the_exact_mixture_passes_all() -> None:
    model = mixture(VP())
    report = diagnose_score(model, model.sample(4000, torch.Generator().manual_seed(0)))
    for row in report.rows:
        assert row.mean < 3 * row.mean_error
        assert abs(row.stein) < 4 * row.stein_error
        assert row.curl.value < 1e-12
        assert row.residual is not None and row.residual.value < 1e-8
    assert report.rows[-1].mean_error < 0.1 / math.sqrt(4000)  # 1/sqrt(n) without the noise as control variate
    assert report.rows[-1].stein_error < 0.25 * math.sqrt(2 / 8000)  # sqrt(2/(n dim)) without it
    assert len(str(report).splitlines()) == 6


def test_wrong_scores_fail_by_the_size_they_are_wrong() -> None:
    model = mixture(VP())
    data = model.sample(4000, torch.Generator().manual_seed(0))

    def diagnose(score: Callable[[Tensor, Time], Tensor]) -> Any:
        return diagnose_score(Scored(model.sde, score), data, times=[0.2]).rows[0]

    scaled = diagnose(lambda x, t: 1.1 * model.score(x, t))
    assert abs(scaled.stein + 0.1) < 4 * scaled.stein_error
    sigma = float(model.sde.sigma(0.2))
    moved = diagnose(lambda x, t: model.score(x, t) + 0.5)
    assert abs(moved.mean - 0.5 * sigma) < 4 * moved.mean_error
    turned = diagnose(lambda x, t: model.score(x, t) + 0.5 * torch.stack([-x[:, 1], x[:, 0]], 1))
    assert turned.curl.value > 0.05
    stale = diagnose(lambda x, t: model.score(x, 0.8 * torch.as_tensor(t)))
    assert stale.residual.value > 0.1
    assert stale.curl.value < 1e-12  # still a gradient


def test_bad_input_is_refused_by_name() -> None:
    model = mixture(VP())
    noisy = StationarySDE(lambda x: -x.square().sum(1), diffusion=lambda x: torch.eye(2).double().expand(len(x), 2, 2))
    with pytest.raises(ValueError, match="does not depend on x, got StationarySDE"):
        score_residual(Scored(noisy, model.score), randn(2, 2), 0.1)
    with pytest.raises(ValueError, match="probes: "):
        score_residual(model, randn(2, 2), 0.1, probes=0)
    with pytest.raises(ValueError, match="x0: expected at least two"):
        diagnose_score(model, randn(1, 2))
    with pytest.raises(ValueError, match="expected a GaussianSDE or CriticallyDamped, got StationarySDE"):
        diagnose_score(Scored(noisy, model.score), randn(2, 2))


def test_a_relative_size_has_the_error_of_the_delta_method() -> None:
    """part = 0.25 whole (1 + e): the root is 1/2, its error 1/2 * 0.25 std(e whole)/(E whole sqrt(n)) / 0.5 = std/4."""
    n, whole = 400, 1 + randn(400, seed=5).square()
    part = 0.25 * whole * (1 + 0.2 * randn(n, seed=6))
    found = relative_size(part, whole)
    ratio = float(part.mean() / whole.mean())
    spread = float((part - ratio * whole).std() / whole.mean()) / math.sqrt(n)
    assert found.value == pytest.approx(math.sqrt(ratio), rel=1e-12)
    assert found.error == pytest.approx(spread / (2 * found.value), rel=0.02)
    # Over many draws the values scatter by the error.
    many = [relative_size(0.25 * whole * (1 + 0.2 * randn(n, seed=s)), whole).value for s in range(100, 300)]
    assert torch.tensor(many).std() == pytest.approx(found.error, rel=0.2)  # four standard errors: 4/sqrt(400)
    assert relative_size(torch.zeros(3), torch.ones(3)) == (0.0, 0.0)


def test_residuals_with_probes_of_their_own_are_not_biased() -> None:
    """For a score with a wrong clock: E r1 . r2 is the exact |r|^2 where E|r1|^2 is not."""
    model = mixture(VP())
    late = Scored(VP(), lambda x, t: model.score(x, 0.8 * torch.as_tensor(t)))
    x, generator = randn(2000, 2, seed=3), torch.Generator().manual_seed(1)
    exact = score_residual(late, x, 0.3).relative
    first, second = (score_residual(late, x, 0.3, probes=1, generator=generator) for _ in range(2))
    found = first.size(second)
    assert abs(found.value - exact) < 4 * found.error
    assert first.relative - exact > 4 * found.error


def test_the_exact_velocity_score_of_a_matrix_process_passes() -> None:
    """Critically damped diffusion of normal data: E[score] = 0 and Stein's identity within standard errors, no curl;
    a score 1.1 times too long fails by 0.1, one that turns fails by its curl."""
    sde, d, n = CriticallyDamped(), 0.7, 2000
    start = torch.tensor([[d**2, 0.0], [0.0, 0.0]], dtype=torch.float64)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)

    def score(u: Tensor, t: Time) -> Tensor:  # u [batch, 2, 2]: two independent copies
        phi, _ = sde.moments(0.0, t)
        return -torch.linalg.solve(phi @ start @ phi.mT + sde.covariance_at(t), u)

    data = d * randn(n, 2, seed=7)
    for row in diagnose_score(Scored(sde, score), data).rows:
        assert row.mean < 3 * row.mean_error
        assert abs(row.stein) < 4 * row.stein_error + 1e-12
        assert row.curl.value < 1e-12
        assert row.residual is None
    for row in diagnose_score(Scored(sde, lambda u, t: 1.1 * score(u, t)), data).rows:
        assert abs(row.stein + 0.1) < 4 * row.stein_error + 1e-12
    for row in diagnose_score(Scored(sde, lambda u, t: score(u, t) @ (torch.eye(2) + turn)), data).rows:
        assert row.curl.value == pytest.approx(math.sqrt(0.5), abs=1e-9)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.25, 1.0])
def test_the_interval_of_a_relative_size_holds_it(ratio: float) -> None:
    """1,000 trials of 200 noisy estimates hold the root of the ratio in 95%, within four binomial errors.

    Where the ratio is 0 half of the estimates are below it and are held, and 97.5% in all. An error that is carried
    upwards alone held 78% there.
    """
    generator, held, trials = torch.Generator().manual_seed(0), 0, 1000
    for _ in range(trials):
        whole = 1 + 0.2 * torch.randn(200, generator=generator)
        size = relative_size(ratio * whole + 0.1 * torch.randn(200, generator=generator), whole)
        held += abs(size.value - math.sqrt(ratio)) <= 1.96 * size.error
    expected = 0.975 if ratio == 0 else 0.95
    assert abs(held / trials - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)
