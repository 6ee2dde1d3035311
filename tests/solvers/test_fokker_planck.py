"""Fokker-Planck in finite volumes against closed forms, and the orders of its errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lognormal import GeometricBrownian
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import SDE, VP, LinearSDE, OrnsteinUhlenbeck, StationarySDE, Time
from backdrift.solvers.fokker_planck import Cells, directions, evolve, generator, stationary
from backdrift.solvers.lines import euler_step, split_step


def normal(x: Tensor, mean: float, variance: float) -> Tensor:
    return torch.exp(-(x[:, 0] - mean).square() / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def mixture() -> GaussianMixture:
    means = torch.tensor([[-1.5], [1.0]], dtype=torch.float64)
    variances = torch.tensor([[0.09], [0.25]], dtype=torch.float64)
    return GaussianMixture(means, variances, torch.tensor([0.3, 0.7], dtype=torch.float64), VP())


def total_variation(p: np.ndarray, q: np.ndarray, cells: Cells) -> float:
    return 0.5 * float(np.abs(p - q).sum()) * cells.volume


def test_ornstein_uhlenbeck_has_its_moments_to_second_order_in_space() -> None:
    """mean = e^-t, variance = e^-2t v_0 + 0.64 (1 - e^-2t): errors fall to a quarter as cells are halved."""
    sde, v0 = OrnsteinUhlenbeck(rate=1.0, std=0.8), 0.09
    alpha = np.exp(-np.array([0.5, 2.0]))
    errors = []
    for n in (60, 120, 240):
        found = evolve(sde, lambda x: normal(x, 1.0, v0), [0.0, 0.5, 2.0], Cells((-5, 5), n), 1e-5)
        mean_error = np.abs(found.mean[1:, 0] - alpha).max()
        variance_error = np.abs(found.covariance[1:, 0, 0] - (alpha**2 * v0 + 0.64 * (1 - alpha**2))).max()
        errors.append([mean_error, variance_error])
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (np.abs(orders - 2) < 0.1).all(), orders
    assert np.max(errors[-1]) < 3e-4


def test_the_stationary_density_of_ornstein_uhlenbeck_is_exact() -> None:
    """With constant D the flux is exact: the density changes by e^z from cell to cell, also in tails of 1e-13."""
    cells = Cells((-6, 6), 150)
    p = stationary(OrnsteinUhlenbeck(rate=1.3, std=0.8), cells)
    x = cells.along(0)
    expected = np.exp(-(x**2) / (2 * 0.64))
    np.testing.assert_allclose(p, expected / expected.sum() / cells.volume, rtol=1e-11)


def test_vp_of_a_mixture_has_its_density() -> None:
    target, times, errors = mixture(), [0.0, 0.1, 0.4, 1.0], []
    for n in (120, 240):
        cells = Cells((-6, 6), n)
        found = evolve(VP(), lambda x: target.log_prob(x).exp(), times, cells, 2e-5)
        points = cells.points()
        exact = [target.log_prob(points, t).exp().numpy() for t in times]
        errors.append([total_variation(p, q, cells) for p, q in zip(found.density[1:], exact[1:], strict=True)])
        assert np.abs(found.mass - found.mass[0]).max() < 1e-12
        assert found.density.min() >= 0
    orders = np.log2(np.divide(errors[0], errors[1]))
    assert np.max(errors[1]) < 1.5e-3
    assert (np.abs(orders[:2] - 2) < 0.15).all(), (orders, errors)  # at T every start has become the same normal


def test_the_reverse_process_brings_the_mixture_back() -> None:
    """From p_T down in time with the exact score, the density is that of the mixture again."""
    target, cells = mixture(), Cells((-6, 6), 240)
    reverse = VP().reverse(target.score)
    found = evolve(reverse, lambda x: target.log_prob(x, 1.0).exp(), [1.0, 0.05], cells, 2e-5)
    exact = target.log_prob(cells.points(), 0.05).exp().numpy()
    assert total_variation(found.density[-1], exact, cells) < 6e-3
    assert np.abs(found.mass - found.mass[0]).max() < 1e-12


def test_a_step_is_of_second_order_in_time() -> None:
    """Fixed steps of one chain against its matrix exponential: slope 2, and 1 for the first stage."""
    cells = Cells((-4, 4), 40)
    lines = directions(OrnsteinUhlenbeck(), cells, 0.0)
    q, _ = generator(OrnsteinUhlenbeck(), cells, 0.0)
    start = cells.average(lambda x: normal(x, 1.0, 0.25))
    exact = torch.linalg.matrix_exp(torch.from_numpy(q.toarray())).numpy() @ start

    def error(steps: int, stage: int) -> float:
        p = start
        for _ in range(steps):
            p = split_step(p, lines, lines, 1.0 / steps)[0] if stage else euler_step(p, lines, 1.0 / steps)
        return total_variation(p, exact, cells)

    slopes = [math.log2(error(40, stage) / error(80, stage)) for stage in (0, 1)]
    np.testing.assert_allclose(slopes, [1.0, 2.0], atol=0.12)


@pytest.mark.parametrize("step", [1e-3, 1.0, 1e4])
def test_mass_and_sign_hold_at_any_step_from_a_point(step: float) -> None:
    cells = Cells((-4, 4), 101)
    lines = directions(OrnsteinUhlenbeck(rate=2.0), cells, 0.0)
    q, _ = generator(OrnsteinUhlenbeck(rate=2.0), cells, 0.0)
    assert np.abs(q.sum(0)).max() < 1e-15 * abs(q).max() * 10  # what leaves a cell arrives in another
    p = np.zeros(101)
    p[70] = 1 / cells.volume
    for _ in range(5):
        p, _ = split_step(p, lines, lines, step)
        assert p.min() >= 0
        assert abs(p.sum() * cells.volume - 1) < 1e-12


@pytest.mark.parametrize("correlated", [0.5, -0.5])
def test_a_split_step_in_two_dimensions_is_of_second_order(correlated: float) -> None:
    """Two axes and a diagonal that do not commute, against the exponential of the whole matrix: slope 2, and 1.

    The sign of the correlation says along which of the two diagonals the jumps lead.
    """
    sde = LinearSDE([[-1.0, 1.0], [-1.5, -1.0]], [[1.0, 0.0], [correlated, 0.8]])
    cells = Cells([(-3, 3), (-3, 3)], 16, "open")
    lines, (q, escape) = directions(sde, cells, 0.0), generator(sde, cells, 0.0)
    density = torch.distributions.MultivariateNormal(torch.zeros(2).double(), 0.5 * torch.eye(2).double())
    start = cells.average(lambda x: density.log_prob(x).exp()).ravel()
    exact = torch.linalg.matrix_exp(0.3 * torch.from_numpy(q.toarray())).numpy() @ start

    def error(steps: int, second: bool) -> float:
        p, lost = start, 0.0
        for _ in range(steps):
            if second:
                p, out = split_step(p, lines, lines, 0.3 / steps)
                lost += out
            else:
                p = euler_step(p, lines, 0.3 / steps)
        if second:
            assert abs(p.sum() + lost - start.sum()) < 1e-12 * start.sum()
            assert p.min() >= 0
        return total_variation(p, exact, cells)

    slopes = [math.log2(error(24, second) / error(48, second)) for second in (False, True)]
    np.testing.assert_allclose(slopes, [1.0, 2.0], atol=0.12)
    np.testing.assert_allclose(q.sum(0), -escape, atol=1e-12 * abs(q).max())


def test_open_ends_let_out_what_they_should() -> None:
    """Brownian motion between absorbing ends: sin(pi x) decays at the rate pi^2/2, to second order in h."""

    class Brownian(SDE):
        T = 1.0
        state_dependent = False

        def drift(self, x: Tensor, t: Time) -> Tensor:
            return torch.zeros_like(x)

        def diffusion(self, x: Tensor, t: Time) -> Tensor:
            return torch.ones_like(x)

    errors = []
    for n in (20, 40):
        cells = Cells((0, 1), n, "open")
        found = evolve(Brownian(), lambda x: math.pi / 2 * torch.sin(math.pi * x[:, 0]), [0, 0.2], cells, 1e-6)
        np.testing.assert_allclose(found.mass + found.escaped, found.mass[0], rtol=1e-12)
        errors.append(abs(found.mass[1] / found.mass[0] - math.exp(-(math.pi**2) * 0.1)))
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.15, errors
    reflecting = evolve(Brownian(), lambda x: 1 + torch.cos(math.pi * x[:, 0]), [0, 0.2], Cells((0, 1), 80), 1e-5)
    x = reflecting.cells.along(0)
    expected = 1 + math.exp(-(math.pi**2) * 0.1) * np.cos(math.pi * x)
    np.testing.assert_allclose(reflecting.density[1], expected, atol=2e-4)


def test_correlated_noise_in_two_dimensions() -> None:
    """A rotating, correlated linear process: mean and covariance are its matrix moments, to second order."""
    sde = LinearSDE([[-1.0, 1.0], [-1.5, -1.0]], [[1.0, 0.0], [0.5, 0.8]])
    start, m = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64), torch.tensor([0.5, 0.0]).double()
    density = torch.distributions.MultivariateNormal(m, start)
    phi, sigma = sde.moments(0.0, 0.5)
    covariance, errors = phi @ start @ phi.mT + sigma, []
    for n in (24, 48):
        cells = Cells([(-3.2, 3.2), (-3.2, 3.2)], n)
        found = evolve(sde, lambda x: density.log_prob(x).exp(), [0.0, 0.5], cells, 2e-4)
        assert found.density.min() >= 0
        assert abs(found.mass[1] - found.mass[0]) < 1e-12
        errors.append(np.abs(found.covariance[1] - covariance.numpy()).max())
    assert errors[1] < 8e-3
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.15, errors


def test_stationary_density_of_a_correlated_process() -> None:
    sde, errors = LinearSDE([[-1.0, 1.0], [-1.5, -1.0]], [[1.0, 0.0], [0.5, 0.8]]), []
    limit = torch.distributions.MultivariateNormal(torch.zeros(2).double(), sde.stationary_covariance)
    for n in (32, 64):
        cells = Cells([(-4.5, 4.5), (-4.5, 4.5)], n)
        p = stationary(sde, cells)
        assert p.min() >= 0
        errors.append(total_variation(p, limit.log_prob(cells.points()).exp().numpy(), cells))
    assert errors[1] < 1e-2
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.15, errors


def test_geometric_brownian_motion_keeps_its_lognormal() -> None:
    """Noise that depends on the state, in Ito's sense: log x_t ~ N(m + (mu - nu^2/2) t, v + nu^2 t)."""

    def lognormal(x: Tensor, t: float) -> Tensor:
        mean, variance = 0.2 * t - 0.08 * t, 0.04 + 0.16 * t
        return torch.exp(-(x[:, 0].log() - mean).square() / (2 * variance)) / (
            x[:, 0] * math.sqrt(2 * math.pi * variance)
        )

    errors = []
    for n in (150, 300):
        cells = Cells((0.0, 9.0), n)
        found = evolve(GeometricBrownian(mu=0.2, nu=0.4), lambda x: lognormal(x, 0.0), [0.0, 0.5], cells, 1e-5)
        errors.append(total_variation(found.density[1], cells.average(lambda x: lognormal(x, 0.5)), cells))
    assert errors[1] < 2e-3
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.2, errors


def test_it_agrees_with_simulation() -> None:
    """A double well at temperature 0.5: the counts of 20,000 simulated paths against the cells' probabilities."""
    sde, n, dt = StationarySDE(lambda x: -(x.square() - 1).square().sum(-1), 0.5), 20_000, 0.002
    cells = Cells((-3, 3), 240)
    found = evolve(sde, lambda x: normal(x, 0.5, 0.04), [0.0, 0.4], cells, 1e-4)
    generator_ = torch.Generator().manual_seed(0)
    x = 0.5 + 0.2 * torch.randn(n, 1, generator=generator_, dtype=torch.float64)
    for _ in range(200):
        noise = torch.randn(n, 1, generator=generator_, dtype=torch.float64)
        x = x + dt * sde.drift(x, 0.0) + math.sqrt(dt) * sde.diffusion(x, 0.0) * noise
    counts = np.histogram(x.numpy(), bins=24, range=(-3, 3))[0]
    expected = n * found.density[1].reshape(24, 10).sum(1) * cells.volume
    kept = expected > 20
    chi2 = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    assert chi2 < kept.sum() + 4 * math.sqrt(2 * kept.sum()), chi2


def test_bad_input_is_refused_by_name() -> None:
    cells = Cells((-1, 1), 10)
    with pytest.raises(ValueError, match="bounds: "):
        Cells((1, -1))
    with pytest.raises(ValueError, match="count: "):
        Cells([(-1, 1), (-1, 1)], (10, 2))
    with pytest.raises(ValueError, match="ends: "):
        Cells((-1, 1), 10, "periodic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="p0: "):
        evolve(VP(), -np.ones(10), [0, 1], cells)
    with pytest.raises(ValueError, match="times: "):
        evolve(VP(), np.ones(10), [0, 1, 0.5], cells)
    with pytest.raises(ValueError, match="times: "):
        evolve(VP(), np.ones(10), [0, 0.5, 0.5], cells)
    with pytest.raises(ValueError, match='expected ends="reflecting"'):
        stationary(VP(), Cells((-1, 1), 10, "open"))
    nearly_one_noise = LinearSDE([[-1.0, 0.0], [0.0, -1.0]], [[1.0, 0.0], [3.0, 0.1]])
    with pytest.raises(ValueError, match="D_xy"):
        generator(nearly_one_noise, Cells([(-1, 1), (-1, 1)], 10), 0.0)
