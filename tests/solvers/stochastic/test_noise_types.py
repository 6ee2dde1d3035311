"""State-dependent noise of every type on states with several axes, forwards and in reverse, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backdrift.sde import SDE, CriticallyDamped, Time, as_time
from backdrift.sde.process import NoiseType
from backdrift.solvers import Noise, ScipyODE, TorchSDE, sample, simulate
from backdrift.solvers.stochastic.torchsde_solver import Method

SHAPE = (2, 1, 2)
"""Of a sample: four components on three axes."""

MU, START, SPREAD = 0.3, 0.2, 0.09
"""Drift of geometric Brownian motion; mean and variance of each log x_0."""


def loadings(kind: NoiseType) -> Tensor:
    """S `[4, m]` of dx = mu x dt + x (S dw), which says how much each of m Brownian motions moves each component."""
    if kind == "diagonal":
        return 0.5 * torch.eye(4, dtype=torch.float64)
    if kind == "scalar":
        return torch.tensor([[0.5], [-0.3], [0.2], [0.4]], dtype=torch.float64)
    return 0.3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Geometric(SDE):
    """dx = mu x dt + x (S dw), flattened: log x_t = log x_0 + (mu - |S_i|^2/2) t + S w_t, for each noise type."""

    T = 1.0

    def __init__(self, kind: NoiseType) -> None:
        self.noise_type = kind
        self.loading = loadings(kind)
        self.covariance_rate = self.loading @ self.loading.mT
        self.log_drift = MU - 0.5 * self.covariance_rate.diagonal()

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return MU * x

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        if self.noise_type == "general":
            return x.flatten(1).unsqueeze(-1) * self.loading
        return x * (self.loading.diagonal() if self.noise_type == "diagonal" else self.loading[:, 0]).reshape(SHAPE)

    def log_moments(self, t: Time) -> tuple[Tensor, Tensor]:
        """The mean `[4]` and covariance `[4, 4]` of log x_t."""
        t = float(t)
        return START + self.log_drift * t, SPREAD * torch.eye(4) + self.covariance_rate * t

    def score(self, x: Tensor, t: Time) -> Tensor:
        """The score of x = e^y with a normal y, d log p/dx_i = -(1 + (V^{-1} (y - m))_i)/x_i."""
        mean, covariance = self.log_moments(t)
        pull = torch.linalg.solve(covariance, (x.flatten(1).log() - mean).mT).mT
        return -((1 + pull).reshape(x.shape)) / x


class Scored:
    """A model that consists of a process and its score."""

    def __init__(self, sde: SDE, score: Callable[[Tensor, Time], Tensor]) -> None:
        self.sde, self.score = sde, score


KINDS = ("diagonal", "scalar", "general")


def draw(sde: Geometric, t: float, n: int, seed: int) -> Tensor:
    mean, covariance = sde.log_moments(t)
    z = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + z @ torch.linalg.cholesky(covariance).mT).exp().reshape(n, *SHAPE)


def close(x: Tensor, mean: Tensor, covariance: Tensor, bias: float) -> None:
    """Check the mean and covariance within four standard errors plus the bias of the discretisation."""
    y = x.flatten(1)
    n, scale = len(y), covariance.diagonal().sqrt()
    assert float(((y.mean(0) - mean) / scale).abs().max()) < 4 / math.sqrt(n) + bias
    spread = (
        covariance.square() + torch.outer(scale, scale).square()
    ).sqrt()  # of an estimated covariance, times sqrt(n)
    assert float(((y.mT.cov() - covariance) / spread).abs().max()) < 4 / math.sqrt(n) + bias


@pytest.mark.parametrize("kind", KINDS)
def test_paths_follow_their_own_brownian_motion(kind: NoiseType) -> None:
    """The mean distance to the closed form, on the noise that `simulate` draws, has strong order 1/2."""
    sde, n, errors, counts = Geometric(kind), 1000, [], (16, 256)
    x0 = torch.ones(n, *SHAPE, dtype=torch.float64)
    for steps in counts:
        end = simulate(sde, x0, torch.linspace(0, 1, steps + 1), seed=1)[-1]
        noise = Noise(1, sde.noise_shape(x0), dtype=torch.float64)
        w = sum((noise() for _ in range(steps)), torch.zeros(sde.noise_shape(x0)).double()) / math.sqrt(steps)
        moved = w.flatten(1) @ sde.loading.mT
        exact = (sde.log_drift + moved).exp().reshape(x0.shape)
        errors.append(float((end - exact).abs().mean()))
    assert math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_reverse_recovers_the_start(kind: NoiseType, stochasticity: float) -> None:
    """From exact samples at T. Without the divergence of g g^T, log x_0 would be wrong by about |S_i|^2."""
    sde, n = Geometric(kind), 2000
    x = simulate(sde.reverse(sde.score, stochasticity), draw(sde, 1.0, n, 2), torch.linspace(1, 0, 101), seed=3)[-1]
    close(x.log(), *sde.log_moments(0.0), bias=0.02)


@pytest.mark.parametrize("method", ["euler", "milstein", "srk"])
@pytest.mark.parametrize("kind", KINDS)
def test_torchsde_recovers_the_start(kind: NoiseType, method: Method) -> None:
    sde, n = Geometric(kind), 2000
    solver = TorchSDE(method=method, steps=40)
    if kind == "general" and method != "euler":
        with pytest.raises(ValueError, match=r"^method: .* does not take the full, state-dependent noise of Geometric"):
            sample(Scored(sde, sde.score), solver, x_T=draw(sde, 1.0, 2, 2))
        return
    close(sample(Scored(sde, sde.score), solver, x_T=draw(sde, 1.0, n, 2), seed=4).log(), *sde.log_moments(0.0), 0.04)


def test_the_probability_flow_is_the_map_between_normal_densities() -> None:
    """With a single Brownian motion y = log x moves only along S, by the closed form for normal densities."""
    sde = Geometric("scalar")
    x = draw(sde, 1.0, 3, 5)
    found = sample(Scored(sde, sde.score), ScipyODE(rtol=1e-9, atol=1e-9), x_T=x).log().flatten(1)
    # dy/dt = m' + V' V^{-1} (y - m)/2 with V = SPREAD + S S^T t: along S it scales by sqrt(V_0/V_1), elsewhere not.
    (m0, v0), (m1, v1) = sde.log_moments(0.0), sde.log_moments(1.0)
    axis = sde.loading[:, 0] / sde.loading[:, 0].norm()
    away = x.log().flatten(1) - m1
    shrink = math.sqrt(float(axis @ v0.double() @ axis) / float(axis @ v1 @ axis))
    expected = m0 + away + (shrink - 1) * (away @ axis).unsqueeze(1) * axis
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


class Turning(SDE):
    """dx = -x/2 dt + R x dw with R a quarter turn: x_t is x_0 turned by w_t. It is its own reverse for isotropic p."""

    T, noise_type = 1.0, "scalar"

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return -0.5 * x

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return torch.stack([-x[..., 1], x[..., 0]], -1)


@pytest.mark.parametrize(("method", "order"), [("euler", 0.5), ("milstein", 1.0), ("srk", 1.5)])
def test_strong_order_where_the_noise_turns(method: Method, order: float) -> None:
    """Here dg/dx is not symmetric. With its transpose in Milstein's term the order would be only 1/2."""
    model, errors, counts = Scored(Turning(), lambda x, t: torch.zeros_like(x)), [], (40, 160)
    angle = torch.linspace(0, 6, 600, dtype=torch.float64)
    x_T = torch.stack([angle.cos(), angle.sin()], -1).unsqueeze(1)
    for steps in counts:
        x = sample(model, TorchSDE(method=method, steps=steps), x_T=x_T, seed=6)
        errors.append(float((x.norm(dim=-1) - 1).square().mean().sqrt()))
    assert math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("run", ["simulate", "torchsde"])
def test_every_copy_of_a_matrix_process_has_its_own_noise(run: str) -> None:
    """Critically damped diffusion of images of normal pixels gives the moments of (x, v), and uncorrelated pixels."""
    sde, n, d2 = CriticallyDamped(), 4000, 0.25
    start = torch.tensor([[d2, 0.0], [0.0, 0.0]], dtype=torch.float64)

    def covariance(t: Time) -> Tensor:
        phi, _ = sde.moments(0.0, t)
        return phi @ start @ phi.mT + sde.covariance_at(t)

    def score(u: Tensor, t: Time) -> Tensor:
        inverse = torch.linalg.inv(covariance(as_time(t, u).reshape(-1)[0].double()))
        return -torch.einsum("ij,bj...->bi...", inverse, u)

    def normal(t: float) -> Tensor:
        z = torch.randn(n, 2, 1, 2, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        return torch.einsum("ij,bj...->bi...", torch.linalg.cholesky(covariance(t)), z)

    eps = 0.05
    if run == "simulate":
        x, t = simulate(sde, normal(eps), torch.linspace(eps, 0.6, 201), seed=8)[-1], 0.6
    else:
        x, t = sample(Scored(sde, score), TorchSDE(method="srk", steps=40, eps=eps), x_T=normal(1.0), seed=8), eps
    expected = torch.kron(covariance(t), torch.eye(4, dtype=torch.float64))
    close(x, torch.zeros(8), expected, bias=0.02)
