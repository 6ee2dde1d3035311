"""The density of positions under critically damped diffusion, against the normal density it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.sde import VP, CriticallyDamped, Time
from backdrift.solvers import position_log_likelihood


class NormalData:
    """The exact score of the state for data N(0.3, 0.25)."""

    def __init__(self) -> None:
        self.sde = CriticallyDamped()
        self.start = torch.tensor([[0.25, 0.0], [0.0, 0.0]], dtype=torch.float64)

    def moments(self, t: Time) -> tuple[Tensor, Tensor]:
        phi, _ = self.sde.moments(0.0, t)
        return 0.3 * phi[:, 0], phi @ self.start @ phi.mT + self.sde.covariance_at(t)

    def score(self, x: Tensor, t: Time) -> Tensor:
        mean, covariance = self.moments(t)
        return -torch.linalg.solve(covariance, x.flatten(2) - mean[:, None]).reshape(x.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_T of the state."""
        mean, covariance = self.moments(self.sde.T)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x[:, :, 0])


def test_it_is_the_density_of_the_position() -> None:
    """Within four standard errors of the draws and the flow's own error, together 0.025 nats; the bound is below it.

    At eps = 0.05 position and velocity are correlated: q is not the posterior, and there is something to average.
    """
    model, eps = NormalData(), 0.05
    x = torch.tensor([[0.1], [1.0]], dtype=torch.float64)
    found = position_log_likelihood(model, x, draws=2000, eps=eps, probes="exact", steps=40, prior=model)
    mean, covariance = model.moments(eps)
    exact = torch.distributions.Normal(mean[0], covariance[0, 0].sqrt()).log_prob(x[:, 0])
    error = 4 * found.standard_error + found.solver_error
    assert bool(((found.log_prob - exact).abs() < error).all()), (found.log_prob - exact, error)
    assert float(error.max()) < 0.025
    assert float((found.log_prob - exact).abs().max()) < 0.01
    assert bool((found.bound < found.log_prob).all())
    assert float(found.standard_error.max()) < 0.005


def test_one_draw_is_told_to_have_no_standard_error() -> None:
    x = torch.tensor([[0.1], [1.0]], dtype=torch.float64)
    settings: dict[str, Any] = {"eps": 0.05, "steps": 4, "prior": NormalData()}
    one = str(position_log_likelihood(NormalData(), x[:1], draws=1, **settings))
    assert "nats (one sample has no standard error) over 1 sample; each: one draw has no standard error" in one
    assert "nan" not in one
    found = position_log_likelihood(NormalData(), x, draws=3, estimate_error=False, **settings)
    assert f"over 2 samples; each: 3 draws ± {float(found.standard_error.mean()):.2g}, error of the solver" in str(
        found
    )
    assert str(found).startswith("log p = ") and "nan" not in str(found)
    assert str(position_log_likelihood(NormalData(), x, draws=3, probes=2, **settings)).startswith("log p >= ")


def test_random_probes_leave_a_bound_without_bias() -> None:
    """At the same draws of the velocity, the mean log-ratio is that of exact probes, within four standard errors.

    The logarithm of their mean would count the noise of the probes as density.
    """
    model, x = NormalData(), torch.linspace(-1, 1.5, 200, dtype=torch.float64).unsqueeze(1)
    settings = {"draws": 4, "eps": 0.05, "steps": 4, "estimate_error": False, "prior": model}
    exact = position_log_likelihood(model, x, probes="exact", **settings)  # type: ignore[arg-type]
    noisy = position_log_likelihood(model, x, probes=1, **settings)  # type: ignore[arg-type]
    assert torch.equal(noisy.log_prob, noisy.bound)
    excess = noisy.log_prob - exact.bound
    error = float(excess.std()) / math.sqrt(len(x))
    assert abs(float(excess.mean())) < 4 * error
    ratios = noisy.joint.log_prob.reshape(200, 4) - exact.joint.log_prob.reshape(200, 4)
    assert float((ratios.logsumexp(1) - math.log(4)).mean()) > 4 * error  # what is avoided


def test_a_sample_is_the_same_alone() -> None:
    model, x = NormalData(), torch.tensor([[0.1], [1.0]], dtype=torch.float64)
    both = position_log_likelihood(model, x, draws=2, eps=0.1, probes="exact", steps=2, estimate_error=False)
    alone = position_log_likelihood(
        model, x[1:], draws=2, eps=0.1, probes="exact", steps=2, estimate_error=False, first=1
    )
    assert float(both.log_prob[1]) == pytest.approx(float(alone.log_prob[0]), rel=1e-12)
    assert float(both.bound[1]) == pytest.approx(float(alone.bound[0]), rel=1e-12)


def test_bad_input_is_refused_by_name() -> None:
    model = NormalData()
    with pytest.raises(ValueError, match="draws: "):
        position_log_likelihood(model, torch.zeros(1, 1), draws=0)
    model.sde = VP()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="expected the process to be CriticallyDamped, got VP"):
        position_log_likelihood(model, torch.zeros(1, 1))
