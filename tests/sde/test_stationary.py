"""Processes with a given stationary density: their currents circulate and their densities stay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import CriticallyDamped, StationarySDE, Time
from backdrift.sde.stationary import matrix_divergence
from backdrift.solvers.fokker_planck import Cells, stationary


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def well(x: Tensor) -> Tensor:
    """log density of a banana with two wells."""
    return -(x[:, 0].square() - 1).square() - (x[:, 1] - 0.5 * x[:, 0]).square()


def noise(x: Tensor) -> Tensor:
    """A positive definite matrix that depends on x."""
    a, b = x[:, 0].sin(), x[:, 1].cos()
    return torch.stack([torch.stack([1.5 + a * b, 0.3 * b], -1), torch.stack([0.3 * b, 1.2 + 0.4 * a], -1)], 1)


def swirl(x: Tensor) -> Tensor:
    q = 1 + x[:, 0] * x[:, 1].tanh()
    zero = torch.zeros_like(q)
    return torch.stack([torch.stack([zero, q], -1), torch.stack([-q, zero], -1)], 1)


def rate_of_change(sde: StationarySDE, x: Tensor) -> Tensor:
    """dp/dt over p where p = e^{l/tau}: minus div J / p for J = f p - div(g g^T p)/2, all by autograd."""

    def current(point: Tensor) -> Tensor:
        p = lambda y: sde.log_prob(y).exp()  # noqa: E731
        spread = matrix_divergence(lambda y: sde.covariance(y, 0.0) * p(y)[:, None, None], point)
        return sde.drift(point, 0.0) * p(point)[:, None] - 0.5 * spread

    def divergence(point: Tensor) -> Tensor:
        return torch.func.jacfwd(lambda y: current(y.unsqueeze(0))[0])(point).trace()

    return -torch.func.vmap(divergence)(x) / sde.log_prob(x).exp()


CASES: dict[str, dict[str, Any]] = {
    "langevin": {},
    "warm": {"temperature": 2.5},
    "scaled": {"diffusion": [0.5, 2.0]},
    "matrix": {"diffusion": [[1.0, 0.4], [0.4, 0.7]], "temperature": 0.6},
    "swirl": {"curl": [[0.0, 1.5], [-1.5, 0.0]]},
    "one noise": {"diffusion": [0.0, 1.0], "curl": [[0.0, 1.0], [-1.0, 0.0]]},
    "state-dependent": {"diffusion": noise, "temperature": 0.7},
    "all": {"diffusion": noise, "curl": swirl, "temperature": 1.7},
}


@pytest.mark.parametrize("name", CASES)
def test_the_current_of_the_density_has_no_divergence(name: str) -> None:
    sde = StationarySDE(well, **CASES[name])
    change = rate_of_change(sde, 0.8 * randn(6, 2))
    assert float(change.abs().max()) < 1e-11


def test_leaving_out_a_divergence_would_be_seen() -> None:
    class Naive(StationarySDE):
        def drift(self, x: Tensor, t: Time) -> Tensor:
            return super().drift(x, t) - 0.5 * self.noise_divergence(x, t)

    assert float(rate_of_change(Naive(well, diffusion=noise), 0.8 * randn(6, 2)).abs().max()) > 0.1


def test_with_no_curl_the_process_is_its_own_reverse() -> None:
    """Detailed balance: f - div(g g^T) - g g^T score = -f; with a curl the circulation is turned round."""
    x = 0.8 * randn(6, 2)
    for curl, balanced in ((None, True), (swirl, False)):
        sde = StationarySDE(well, 1.3, noise, curl)

        def score(x: Tensor, t: Time, sde: StationarySDE = sde) -> Tensor:
            return sde.score(x) / sde.temperature

        reverse = sde.reverse(score)
        gap = float((reverse.drift(x, 0.0) + sde.drift(x, 0.0)).abs().max())
        assert (gap < 1e-12) == balanced


def test_underdamped_langevin_of_a_normal_is_critically_damped() -> None:
    cld = CriticallyDamped(friction=1.4, schedule=1.0)
    sde = StationarySDE(
        lambda u: -0.5 * u[:, 0].square() - 0.5 * u[:, 1].square() / cld.mass,
        diffusion=[0.0, cld.friction],
        curl=[[0.0, -1.0], [1.0, 0.0]],
    )
    u = randn(5, 2)
    torch.testing.assert_close(sde.drift(u, 0.0), cld.drift(u, 0.0))
    torch.testing.assert_close(sde.covariance(u, 0.0), cld.covariance(u, 0.0))


def test_a_given_score_and_a_mixture_do_the_same_as_autograd() -> None:
    mixture = GaussianMixture(randn(3, 2), 0.3)
    x = randn(5, 2, seed=1)
    by_hand = torch.func.grad(lambda y: mixture.log_prob(y).sum())
    sde = StationarySDE(mixture.log_prob)
    torch.testing.assert_close(sde.drift(x, 0.0), by_hand(x))
    given = StationarySDE(mixture.log_prob, score=lambda y: 2 * by_hand(y))
    torch.testing.assert_close(given.drift(x, 0.0), 2 * by_hand(x))


@pytest.mark.parametrize(("temperature", "power"), [(1.0, 1.0), (0.5, 2.0), (3.0, 1 / 3)])
def test_fokker_planck_finds_the_density_in_one_dimension(temperature: float, power: float) -> None:
    """p^{1/tau}: with unit noise (tau = 1/2) and drift grad log p the density is p^2, the slides' slip."""
    target = GaussianMixture(torch.tensor([[-1.0], [1.5]]).double(), torch.tensor([[0.2], [0.5]]).double())
    errors = []
    for n in (80, 160):
        cells = Cells((-7, 8), n)
        expected = (power * target.log_prob(cells.points())).exp().numpy()
        p = stationary(StationarySDE(target.log_prob, temperature), cells)
        errors.append(0.5 * np.abs(p - expected / expected.sum() / cells.volume).sum() * cells.volume)
    assert errors[1] < 2e-3
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.25, errors


@pytest.mark.parametrize("name", ["warm", "swirl", "matrix", "all"])
def test_fokker_planck_finds_the_density_in_two_dimensions(name: str) -> None:
    sde, errors = StationarySDE(well, **CASES[name]), []
    for n in (32, 64):
        cells = Cells([(-2.6, 2.6), (-4.5, 4.5)], (n, int(1.5 * n)))
        p = stationary(sde, cells)
        expected = sde.log_prob(cells.points().reshape(-1, 2)).exp().numpy().reshape(cells.count)
        errors.append(0.5 * np.abs(p - expected / expected.sum() / cells.volume).sum() * cells.volume)
        assert p.min() >= 0
    assert errors[1] < 1.5e-2
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.35, errors


def test_sgd_is_gibbs_at_half_the_learning_rate_times_the_variance() -> None:
    """A tilted double well under noisy gradient steps: the process's density is e^{-2L/(eta sigma^2)}, not
    the e^{-L/eta} that "eta as temperature" says when taken at its word."""
    eta, sigma = 0.1, 2.5

    def loss(x: Tensor) -> Tensor:
        return (0.5 * (x.square() - 1).square() + 0.15 * x).sum(-1)

    sde = StationarySDE.sgd(loss, eta, sigma)
    assert sde.temperature == pytest.approx(eta * sigma**2 / 2)
    x = randn(4, 1)
    torch.testing.assert_close(sde.diffusion(x, 0.0).expand(4, 1), torch.full((4, 1), math.sqrt(eta) * sigma).double())
    cells = Cells((-3, 3), 300)
    p, at = stationary(sde, cells), torch.from_numpy(cells.along(0))[:, None]
    gap = []
    for temperature in (eta * sigma**2 / 2, eta):
        gibbs = torch.exp(-loss(at) / temperature).numpy()
        gap.append(0.5 * np.abs(p - gibbs / gibbs.sum() / cells.volume).sum() * cells.volume)
    assert gap[0] < 1e-3
    assert gap[1] > 0.1


def test_sgd_steps_tend_to_the_process_as_the_learning_rate_falls() -> None:
    """On L = a x^2/2 the steps' stationary variance is eta sigma^2/(2a) / (1 - eta a/2): simulated."""
    a, sigma, chains, generator = 2.0, 1.0, 50_000, torch.Generator().manual_seed(1)
    for eta in (0.4, 0.1):
        x = torch.zeros(chains, dtype=torch.float64)
        for _ in range(int(12 / (eta * a))):
            x = x - eta * (a * x + sigma * torch.randn(chains, generator=generator, dtype=torch.float64))
        of_process = StationarySDE.sgd(lambda x: 0.5 * a * x.square().sum(-1), eta, sigma).temperature / a
        expected = of_process / (1 - eta * a / 2)
        assert abs(float(x.var()) / expected - 1) < 4 * math.sqrt(2 / chains)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"temperature": 0.0}, "temperature: "),
        ({"diffusion": [[1.0, 2.0], [2.0, 1.0]]}, "diffusion: "),
        ({"diffusion": [[1.0, 0.5], [0.2, 1.0]]}, "diffusion: "),
        ({"diffusion": -1.0}, "diffusion: "),
        ({"curl": [[0.0, 1.0], [1.0, 0.0]]}, "curl: "),
    ],
)
def test_bad_recipes_are_refused_by_name(arguments: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        StationarySDE(well, **arguments)
