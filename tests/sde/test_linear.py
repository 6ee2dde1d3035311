"""Linear processes against moment equations, scalar closed forms, Gaussian conditioning, published formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from backdrift.sde import VP, CriticallyDamped, GaussianSDE, LinearSDE, OrnsteinUhlenbeck, Time, check
from backdrift.sde.linear import factor
from backdrift.sde.schedule import Schedule

A = [[-0.3, 1.2, 0.0], [-1.0, -0.5, 0.4], [0.1, 0.0, -0.8]]
L = [[0.0, 0.2], [1.0, 0.0], [0.3, 0.7]]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def van_loan(a: np.ndarray, q: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Phi and Sigma by the block exponential itself, Van Loan (1978), theorem 1."""
    d = len(a)
    block = np.block([[-a, q], [np.zeros((d, d)), a.T]]) * tau
    e = scipy.linalg.expm(block)
    phi = e[d:, d:].T
    return phi, phi @ e[:d, d:]


@pytest.mark.parametrize("schedule", [1.0, 3.0, VP(0.1, 20.0)], ids=["unit", "fast", "vp"])
def test_moments_solve_their_differential_equations(schedule: Schedule | float) -> None:
    sde = LinearSDE(A, L, schedule=schedule, initial=torch.eye(3) * 0.1)
    report = sde.check(tolerance=1e-7)
    assert report, report


def test_check_names_a_schedule_that_disagrees_with_itself() -> None:
    class Wrong(VP):
        def integrated_beta(self, t: Tensor) -> Tensor:
            return self.beta(t) * t

    report = LinearSDE(A, L, schedule=Wrong()).check()
    assert not report
    assert "integrated_beta" in report.faults[0]


def test_moments_are_van_loans() -> None:
    sde = LinearSDE(A, L, schedule=VP(), T=1.0)
    a, q = sde.A.numpy(), (sde.L @ sde.L.mT).numpy()
    for s, t in [(0.0, 0.3), (0.2, 0.9), (0.5, 0.5001)]:
        schedule = VP()
        tau = float(schedule.integrated_beta(torch.tensor(t, dtype=torch.float64))) - float(
            schedule.integrated_beta(torch.tensor(s, dtype=torch.float64))
        )
        for ours, theirs in zip(sde.moments(s, t), van_loan(a, q, tau), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-14 * np.abs(theirs).max())


def test_no_digits_are_lost_in_tiny_steps() -> None:
    """Sigma of CLD from v = x = 0 is 2 Gamma tau (tau^2/(3 M^2), tau/(2 M), 1) to leading order: with tau
    down to 1e-12 the entries span 24 decades, and each keeps its digits."""
    sde = CriticallyDamped(schedule=1.0)
    m, gamma = sde.mass, sde.friction
    for tau in (1e-2, 1e-4, 1e-7, 1e-12):
        _, sigma = sde.moments_after(torch.tensor(tau, dtype=torch.float64))
        leading = [2 * gamma * tau**3 / (3 * m**2), gamma * tau**2 / m, 2 * gamma * tau]
        entries = [float(sigma[0, 0]), float(sigma[0, 1]), float(sigma[1, 1])]
        np.testing.assert_allclose(entries, leading, rtol=10 * tau * gamma / m + 1e-13)
        root = factor(sigma)
        np.testing.assert_allclose((root @ root.mT).numpy(), sigma.numpy(), rtol=1e-14)
        # The share of x's noise that v does not tell: 1 - (3/4) = 1/4 of its variance, in the limit.
        np.testing.assert_allclose(float(1 - sigma[0, 1] ** 2 / sigma[0, 0] / sigma[1, 1]), 0.25, rtol=10 * tau + 1e-13)


def test_long_times_neither_overflow_nor_lose_the_stationary_density() -> None:
    sde = LinearSDE([[-1.0, 3.0], [-3.0, -50.0]], [[0.5, 0.0], [0.1, 2.0]], schedule=40.0, T=50.0)
    phi, sigma = sde.moments(0.0, 50.0)
    c = sde.stationary_covariance
    residual = sde.A @ c + c @ sde.A.mT + sde.L @ sde.L.mT
    assert float(residual.abs().max()) < 1e-13
    torch.testing.assert_close(sigma, c, rtol=1e-11, atol=1e-14)
    assert float(phi.abs().max()) < 1e-300


@pytest.mark.parametrize("scalar", [OrnsteinUhlenbeck(rate=0.7, std=1.4, T=3.0), VP(0.1, 20.0)], ids=["ou", "vp"])
def test_the_scalar_case_is_the_gaussian_process(scalar: GaussianSDE) -> None:
    if isinstance(scalar, VP):
        linear = LinearSDE(-0.5, 1.0, schedule=scalar)
    else:
        linear = LinearSDE(-0.7, 1.4 * math.sqrt(2 * 0.7), T=3.0)
    x0, xt = randn(4, 1), randn(4, 1, seed=1)
    t = torch.tensor([0.02, 0.3, 0.8, 1.0], dtype=torch.float64)
    s = torch.tensor([0.01, 0.0, 0.79, 0.2], dtype=torch.float64)
    torch.testing.assert_close(linear.drift(x0, t), scalar.drift(x0, t))
    torch.testing.assert_close(linear.apply_diffusion(x0, t, xt), scalar.apply_diffusion(x0, t, xt))
    torch.testing.assert_close(linear.diffusion(x0, t)[..., 0], scalar.diffusion(x0, t).expand(4, 1))
    for name, arguments in (("marginal", (x0, t)), ("transition", (x0, s, t)), ("bridge", (xt, x0, s, t))):
        mean, root = getattr(linear, name)(*arguments)
        expected_mean, expected_std = getattr(scalar, name)(*arguments)
        torch.testing.assert_close(mean, expected_mean, rtol=1e-9, atol=1e-12, msg=name)
        torch.testing.assert_close(root[..., 0], expected_std, rtol=1e-9, atol=1e-12, msg=name)
    torch.testing.assert_close(linear.perturb(x0, t, xt), scalar.perturb(x0, t, xt))
    torch.testing.assert_close(linear.prior.log_prob(x0), scalar.prior.log_prob(x0))


def test_bridge_is_the_joint_gaussian_conditioned() -> None:
    """x_s and x_t given x_0 are jointly Gaussian; condition that 2d matrix by its inverse's blocks."""
    sde = LinearSDE(A, L, schedule=2.0, initial=0.3 * torch.eye(3))
    x0, xt = randn(1, 3), randn(1, 3, seed=1)
    for s, t in [(0.1, 0.4), (0.35, 0.36), (0.0, 1.0)]:
        phi_s, _ = sde.moments(0.0, s)
        p = sde.covariance_at(s)
        phi, r = sde.moments(s, t)
        joint = torch.cat([torch.cat([p, p @ phi.mT], 1), torch.cat([phi @ p, phi @ p @ phi.mT + r], 1)])
        precision = torch.linalg.inv(joint)
        covariance = torch.linalg.inv(precision[:3, :3])
        m = (phi_s @ x0.mT).mT
        mean = m - (covariance @ precision[:3, 3:] @ (xt - m @ phi.mT).mT).mT
        got_mean, root = sde.bridge(xt, x0, s, t)
        torch.testing.assert_close(got_mean, mean, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(root @ root.mT, covariance, rtol=1e-7, atol=1e-10)


def test_bridge_and_marginal_make_the_joint_density() -> None:
    """p(x_s, x_t) = p(x_t given x_s) p(x_s) = p(x_s given x_t) p(x_t), at random points."""
    sde = CriticallyDamped()
    x0, s, t = sde.lift(randn(1, 5)), 0.3, 0.7
    xs, xt = sde.perturb(x0, s, randn(1, 2, 5, seed=2)), sde.perturb(x0, t, randn(1, 2, 5, seed=3))

    def log_normal(x: Tensor, mean: Tensor, root: Tensor) -> Tensor:
        z = torch.linalg.solve_triangular(root, x - mean, upper=False)
        return -0.5 * z.square().sum() - x.shape[-1] * (
            root.diagonal(dim1=-2, dim2=-1).log().sum() + math.log(2 * math.pi)
        )

    forward = log_normal(xt, *sde.transition(xs, s, t)) + log_normal(xs, *sde.marginal(x0, s))
    backward = log_normal(xs, *sde.bridge(xt, x0, s, t)) + log_normal(xt, *sde.marginal(x0, t))
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)


def test_steps_compose() -> None:
    sde = LinearSDE(A, L, schedule=VP())
    phi1, sigma1 = sde.moments(0.1, 0.4)
    phi2, sigma2 = sde.moments(0.4, 0.9)
    phi, sigma = sde.moments(0.1, 0.9)
    torch.testing.assert_close(phi2 @ phi1, phi, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(phi2 @ sigma1 @ phi2.mT + sigma2, sigma, rtol=1e-10, atol=1e-13)


def test_singular_noise_has_a_factor() -> None:
    """Two components driven by one noise in the same way never part: rank one at every time."""
    sde = LinearSDE([[-1.0, 0.0], [0.0, -1.0]], [[1.0], [2.0]])
    _, root = sde.transition(randn(3, 2), 0.2, torch.tensor([0.2, 0.3, 1.0], dtype=torch.float64))
    variance = -torch.expm1(-2 * torch.tensor([0.0, 0.1, 0.8], dtype=torch.float64)) / 2
    expected = variance[:, None, None] * torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(root @ root.mT, expected, rtol=1e-12, atol=1e-14)


def test_a_sample_is_the_same_alone() -> None:
    sde = LinearSDE(A, L, schedule=VP())
    x, t = randn(5, 3, 2), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    mean, root = sde.marginal(x, t)
    for i in range(5):
        alone_mean, alone_root = sde.marginal(x[i : i + 1], t[i])
        torch.testing.assert_close(mean[i : i + 1], alone_mean, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(root[i], alone_root, rtol=1e-13, atol=1e-15)


def published_cld(t: float, beta: float, gamma: float, m: float, start: float) -> tuple[np.ndarray, np.ndarray]:
    """Perturbation kernel of CLD as a formula. The drift matrix has the double eigenvalue -2/Gamma, so
    e^{A tau} = e^{-2 tau/Gamma} (I + N tau), N = A + 2/Gamma I nilpotent (Dockhorn et al. 2022, appendix B);
    since the process leaves diag(1, M) as it is, Sigma = diag(1, M) - Phi diag(1, M) Phi^T."""
    tau = beta * t
    a = np.array([[0, 1 / m], [-1, -gamma / m]])
    nilpotent = a + 2 / gamma * np.eye(2)
    phi = math.exp(-2 * tau / gamma) * (np.eye(2) + tau * nilpotent)
    limit = np.diag([1.0, m])
    return phi, limit - phi @ limit @ phi.T + phi @ np.diag([0.0, start]) @ phi.T


@pytest.mark.parametrize("friction", [1.0, 2.5])
def test_cld_has_its_published_kernel(friction: float) -> None:
    sde = CriticallyDamped(friction=friction)
    for t in (0.05, 0.3, 1.0):
        phi, covariance = published_cld(t, 4.0, friction, friction**2 / 4, 0.04 * friction**2 / 4)
        np.testing.assert_allclose(sde.moments(0.0, t)[0].numpy(), phi, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(sde.covariance_at(t).numpy(), covariance, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(sde.stationary_covariance, torch.tensor([1.0, sde.mass]).double().diag())
    assert np.ptp(np.linalg.eigvals(sde.A.numpy())) < 1e-7  # one double eigenvalue: critical
    assert check(sde)


def gaussian_score(sde: LinearSDE, start: Tensor) -> Callable[[Tensor, Time], Tensor]:
    """grad log p_t of the state when x_0 ~ N(0, start), before `initial` is added."""

    def score(x: Tensor, t: Time) -> Tensor:
        phi, _ = sde.moments(0.0, t)
        c = phi @ start @ phi.mT + sde.covariance_at(t)
        return -torch.linalg.solve(c, x.reshape(*x.shape[:2], -1)).reshape(x.shape)

    return score


@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
def test_reverse_cld_with_the_exact_score_keeps_the_marginals(stochasticity: float) -> None:
    """The reverse SDE is linear here: its covariance obeys dC/dt = F C + C F^T - G G^T with F its drift
    (backwards in time), and must be that of the forward process at every time, to the integrator's error."""
    sde, start = CriticallyDamped(), torch.tensor([[0.25, 0.0], [0.0, 0.0]], dtype=torch.float64)
    reverse = sde.reverse(gaussian_score(sde, start), stochasticity)
    unit = torch.eye(2, dtype=torch.float64)

    def covariance(t: float) -> Tensor:
        phi, _ = sde.moments(0.0, t)
        return phi @ start @ phi.mT + sde.covariance_at(t)

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        c = torch.from_numpy(y).reshape(2, 2)
        f, g = reverse.drift(unit, t).mT, reverse.diffusion(unit, t)[0]
        return (f @ c + c @ f.mT - g @ g.mT).flatten().numpy()

    times = np.array([1.0, 0.5, 0.1, 0.01])
    initial = covariance(1.0).flatten().numpy()
    path = scipy.integrate.solve_ivp(slope, (1.0, 0.01), initial, "LSODA", times, rtol=1e-10, atol=1e-13)
    for t, c in zip(times, path.y.T, strict=True):
        np.testing.assert_allclose(c.reshape(2, 2), covariance(t).numpy(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([[1.0, 2.0]], [[1.0]]), "A: "),
        (([[1.0]], [[1.0], [2.0]]), "L: "),
        (([[math.nan]], [[1.0]]), "A: "),
        ((A, L, 1.0, -1.0), "T: "),
        ((A, L, -2.0), "schedule: expected a Schedule or a positive number, got -2.0"),
        ((A, L, True), "schedule: expected a Schedule or a positive number, got True"),
        ((A, L, 1.0, 1.0, 1.0), "eps: expected a number of at least 0 and below 1"),
        ((A, L, 1.0, 1.0, None, [[1.0]]), "initial: "),
    ],
)
def test_bad_matrices_are_refused_by_name(arguments: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        LinearSDE(*arguments)


def test_bad_times_and_unstable_drifts_are_refused() -> None:
    sde = LinearSDE([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match="s, t: "):
        sde.transition(randn(2, 1), 0.5, 0.4)
    for times in (torch.ones(3), torch.ones(2, 1), torch.ones(1, 1, 1)):
        with pytest.raises(ValueError, match="t: expected a scalar or one time per sample"):
            sde.marginal(randn(2, 1), times)
    with pytest.raises(ValueError, match="A: there is no stationary density"):
        _ = sde.stationary_covariance
