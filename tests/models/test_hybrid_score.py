"""The preconditioned velocity score and its loss, against normal data and a mixture, exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from backdrift.models import HybridLoss, HybridScore
from backdrift.sde import VP, CriticallyDamped
from backdrift.sde.linear import factor


class Zero(nn.Module):
    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        return torch.zeros_like(z)


def state_moments(sde: CriticallyDamped, mean: float, variance: float, t: float) -> tuple[Tensor, Tensor]:
    phi, _ = sde.moments(0.0, t)
    start = torch.tensor([[variance, 0.0], [0.0, 0.0]], dtype=torch.float64)
    return phi[:, 0] * mean, phi @ start @ phi.mT + sde.covariance_at(t)


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.5, 1.0])
def test_without_a_network_it_is_the_score_of_normal_data(t: float) -> None:
    model = HybridScore(Zero(), CriticallyDamped(), data_std=0.6)
    u = model.sde.perturb(
        model.sde.lift(0.6 * torch.randn(7, 1, 3, generator=torch.Generator().manual_seed(0)).double()), t
    )
    _, covariance = state_moments(model.sde, 0.0, 0.36, t)
    exact = -torch.linalg.solve(covariance, u.flatten(2)).reshape(u.shape)
    torch.testing.assert_close(model.score(u, t)[:, 1], exact[:, 1], rtol=1e-7, atol=1e-9)
    assert not model.score(u, t)[:, 0].any()
    one_each = model.score(u, torch.full((7,), t, dtype=torch.float64))
    torch.testing.assert_close(one_each, model.score(u, t))


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.5, 1.0])
def test_input_and_target_have_unit_variance_and_the_target_is_news(t: float) -> None:
    """By the joint covariance of (u, eps_v): W S W^T = 1, Cov(eps_v - w u, u) = 0, Var(eps_v - w u) = c^2."""
    sde = CriticallyDamped()
    parts = HybridScore(Zero(), sde, data_std=1.7).coefficients(torch.tensor(t, dtype=torch.float64))
    _, covariance = state_moments(sde, 0.0, 1.7**2, t)
    torch.testing.assert_close(parts.whiten @ covariance @ parts.whiten.mT, torch.eye(2).double(), rtol=1e-9, atol=1e-9)
    with_noise = factor(sde.covariance_at(t))[:, 1]
    residue = with_noise - covariance @ parts.guess
    assert float((residue / covariance.diagonal().sqrt()).abs().max()) < 1e-10
    variance = 1 - 2 * parts.guess @ with_noise + parts.guess @ covariance @ parts.guess
    assert float(parts.out.square()) == pytest.approx(float(variance), rel=1e-7, abs=1e-12)


class Exact(nn.Module):
    """E[eps_v given u] for data +-1 with variance 0.04, in place of a network (scalar data)."""

    def __init__(self, sde: CriticallyDamped, data_std: float) -> None:
        super().__init__()
        self.sde, self.outer = sde, HybridScore(Zero(), sde, data_std)

    def noise(self, u: Tensor, t: float) -> Tensor:
        parts = [state_moments(self.sde, m, 0.04, t) for m in (1.0, -1.0)]
        laws = [torch.distributions.MultivariateNormal(mean, c) for mean, c in parts]
        shares = torch.stack([law.log_prob(u[:, :, 0]) for law in laws]).softmax(0)
        scores = [-torch.linalg.solve(c, (u[:, :, 0] - mean).mT).mT for mean, c in parts]
        score = torch.stack([share[:, None] * s for share, s in zip(shares, scores, strict=True)]).sum(0)
        return -factor(self.sde.covariance_at(t))[1, 1] * score[:, 1:]


@pytest.mark.parametrize("t", [0.02, 0.2, 0.6])
def test_the_mean_noise_is_the_velocity_score(t: float) -> None:
    """E[(eps_v + F_vv grad_v log p(u)) h(u)] = 0 for any h, here u and their cubes, within standard errors:
    the identity that makes hybrid score matching right, on a mixture whose score is known."""
    sde, n = CriticallyDamped(), 200_000
    generator = torch.Generator().manual_seed(0)
    sign = torch.randint(0, 2, (n, 1), generator=generator) * 2.0 - 1
    x0 = (sign + 0.2 * torch.randn(n, 1, generator=generator)).double()
    noise = torch.randn(n, 2, 1, generator=generator, dtype=torch.float64)
    u = sde.perturb(sde.lift(x0), t, noise)
    error = noise[:, 1, 0] - Exact(sde, 1.0).noise(u, t)[:, 0]
    for h in (u[:, 0, 0], u[:, 1, 0], u[:, 0, 0] ** 3, u[:, 1, 0] ** 3):
        product = error * h
        assert abs(float(product.mean())) < 4 * float(product.std()) / math.sqrt(n)


def test_the_loss_is_least_at_the_exact_score() -> None:
    """The loss at one time, with the exact noise as network, is below that of half and 3/2 of it."""
    sde, data_std, n, t = CriticallyDamped(eps=0.2 - 1e-9, T=0.2), math.sqrt(1.04), 20_000, 0.2
    exact = Exact(sde, data_std)

    class AsNetwork(nn.Module):
        scale = 1.0

        def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
            parts = model.coefficients(torch.tensor(t, dtype=torch.float64))
            u = torch.linalg.solve(parts.whiten, z.unsqueeze(-1))
            raw = (exact.noise(u, t) - model.guessed(u, parts)) / parts.out
            return torch.cat([torch.zeros_like(raw), self.scale * raw], 1)

    network = AsNetwork()
    model, losses = HybridScore(network, sde, data_std), {}
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randint(0, 2, (n, 1), generator=generator).double() * 2 - 1
    x0 = x0 + 0.2 * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 2, 1, generator=generator, dtype=torch.float64)
    for scale in (0.0, 0.5, 1.0, 1.5):
        network.scale = scale
        losses[scale] = HybridLoss()(model, x0, noise=noise)
    assert abs(float(losses[0.0].mean()) - 1) < 4 * float(losses[0.0].std()) / math.sqrt(n)  # unit variance
    for scale in (0.5, 1.5):
        gain = losses[scale] - losses[1.0]
        assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(n)


def test_another_process_is_refused() -> None:
    with pytest.raises(ValueError, match="sde: expected CriticallyDamped, got VP"):
        HybridScore(Zero(), VP())  # type: ignore[arg-type]
