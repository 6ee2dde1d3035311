"""The law of the splitting sampler, computed exactly, against that of the process, and its likelihood."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from given_noise import GivenNoise
from torch import Tensor

from backdrift.sde import VP, CriticallyDamped, LinearSDE, Time
from backdrift.solvers import SymmetricSplitting, log_likelihood, sample
from backdrift.solvers.stochastic.symmetric_splitting import Inner


class GaussianState:
    """The exact score of a linear process whose data are N(mean, start)."""

    def __init__(self, sde: LinearSDE, mean: Tensor, start: Tensor) -> None:
        self.sde, self.mean, self.start = sde, mean, start

    def moments(self, t: Time) -> tuple[Tensor, Tensor]:
        phi, _ = self.sde.moments(0.0, t)
        return phi @ self.mean, phi @ self.start @ phi.mT + self.sde.covariance_at(t)

    def score(self, x: Tensor, t: Time) -> Tensor:
        mean, covariance = self.moments(t)
        centred = x.reshape(*x.shape[:2], -1) - mean.to(x)[:, None]
        return -torch.linalg.solve(covariance.to(x), centred).reshape(x.shape)

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        mean, covariance = self.moments(t)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def cld(variance: float = 0.25) -> GaussianState:
    start = torch.tensor([[variance, 0.0], [0.0, 0.0]], dtype=torch.float64)
    return GaussianState(CriticallyDamped(), torch.tensor([0.7, 0.0], dtype=torch.float64), start)


def law(solver: SymmetricSplitting, model: GaussianState) -> tuple[Tensor, Tensor]:
    """The exact mean and covariance of the samples.

    The result is an affine map of x_T and of all the noises. In the batch each sample has only one of them, and one
    sample has none, so the results give the whole map."""
    d, draws = model.sde.dim, 2 * solver.steps
    x = torch.zeros(1 + d + draws * d, d, dtype=torch.float64)
    mean, covariance = model.moments(model.sde.T)
    x[:] = mean
    x[1 : 1 + d] += torch.linalg.cholesky(covariance).mT
    calls = 0

    def noise() -> Tensor:
        nonlocal calls
        unit = torch.zeros_like(x)
        unit[1 + d * (1 + calls) : 1 + d * (2 + calls)] = torch.eye(d, dtype=torch.float64)
        calls += 1
        return unit

    end = solver.solve(model, x, GivenNoise(noise))
    rest = end[1:] - end[0]
    return end[0], rest.mT @ rest


def errors(model: GaussianState, inner: Inner, steps: tuple[int, ...], eps: float = 0.05) -> list[float]:
    mean, covariance = model.moments(eps)
    found = []
    for n in steps:
        m, c = law(SymmetricSplitting(steps=n, inner=inner, eps=eps), model)
        found.append(max(float((m - mean).abs().max()), float((c - covariance).abs().max())))
    return found


@pytest.mark.parametrize(("inner", "order"), [("euler", 1.0), ("midpoint", 2.0)])
def test_weak_order(inner: Inner, order: float) -> None:
    """Both moments have order 1 with one Euler step in S, and order 2 with a midpoint step."""
    found = errors(cld(), inner, (40, 80, 160))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(found)]
    assert abs(slopes[-1] - order) < 0.15, (slopes, found)
    assert found[-1] < (2e-2 if order == 1 else 1e-3), found


def test_it_is_exact_where_the_density_is_stationary() -> None:
    """In this case part S is 0 and part A is exact, so a single step of any size is exact."""
    sde = LinearSDE([[-1.0, 2.0], [-0.5, -3.0]], [[1.0, 0.0], [0.4, 0.7]], schedule=VP())
    model = GaussianState(sde, torch.zeros(2, dtype=torch.float64), sde.stationary_covariance)
    mean, covariance = law(SymmetricSplitting(steps=1), model)
    torch.testing.assert_close(covariance, sde.stationary_covariance, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mean, torch.zeros(2, dtype=torch.float64))


def test_order_holds_for_another_linear_process() -> None:
    sde = LinearSDE([[-1.0, 2.0], [-0.5, -3.0]], [[1.0, 0.0], [0.4, 0.7]], schedule=VP(0.5, 4.0))
    start = torch.tensor([[0.3, 0.1], [0.1, 0.4]], dtype=torch.float64)
    model = GaussianState(sde, torch.tensor([1.0, -0.5], dtype=torch.float64), start)
    a, b = errors(model, "midpoint", (40, 80), eps=0.1)
    assert abs(math.log2(a / b) - 2) < 0.15


def test_samples_have_the_data_s_moments_and_do_not_know_their_batch() -> None:
    model, n = cld(), 4000
    solver = SymmetricSplitting(steps=60, inner="midpoint", grid="quadratic")
    x = sample(model, solver, (n, 2), seed=3, dtype=torch.float64)
    mean, covariance = model.moments(model.sde.eps)
    assert float((x.mean(0) - mean).abs().max()) < 4 * math.sqrt(0.25 / n) + 5e-3
    assert float((x.mT.cov() - covariance).abs().max()) < 4 * 0.25 * math.sqrt(2 / n) + 5e-3
    alone = sample(model, solver, (1, 2), seed=3, first=5, dtype=torch.float64)
    torch.testing.assert_close(x[5:6], alone, rtol=1e-12, atol=1e-12)


def test_likelihood_by_the_probability_flow() -> None:
    """log p_eps of the state (x, v) by the flow in x and t is that of the normal density, up to the solver's error."""
    model = cld()

    class Terminal:
        """The exact p_T in place of the prior, which still depends on x_0. So only the solver has an error."""

        def log_prob(self, x: Tensor) -> Tensor:
            return model.log_prob(x, model.sde.T)

    x = torch.tensor([[0.3, 0.05], [1.4, -0.1]], dtype=torch.float64)
    exact = model.log_prob(x, 0.05)
    found = log_likelihood(model, x, probes="exact", steps=32, eps=0.05, prior=Terminal())
    torch.testing.assert_close(found.log_prob, exact, rtol=0, atol=1e-3)
    assert bool(((found.log_prob - exact).abs() < found.solver_error).all())
    coarse = log_likelihood(model, x, probes="exact", steps=16, eps=0.05, prior=Terminal(), estimate_error=False)
    assert float(((coarse.log_prob - exact) / (found.log_prob - exact)).abs().min()) > 10  # order 4: 16 in the limit


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="steps: "):
        SymmetricSplitting(steps=0)
    with pytest.raises(ValueError, match="inner: "):
        SymmetricSplitting(inner="heun")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grid: "):
        SymmetricSplitting(grid="karras")
    with pytest.raises(ValueError, match="noise: "):
        SymmetricSplitting().solve(cld(), torch.zeros(1, 2))
