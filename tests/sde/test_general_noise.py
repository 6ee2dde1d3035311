"""State-dependent noise: the divergence of g g^T by hand, and reverse processes that undo their forward ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lognormal import GeometricBrownian
from torch import Tensor

from backdrift.sde import SDE, CriticallyDamped, ReverseSDE, Time, as_time
from backdrift.sde.process import NoiseType
from backdrift.solvers import TorchSDE, sample
from backdrift.solvers.stochastic.torchsde_solver import Method


class Sheared(SDE):
    """A 2-D process with full state-dependent noise, g = [[cos x_2, t x_1, 1], [x_1 x_2, 2, sin x_1]]."""

    noise_type = "general"
    T = 1.0

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        a, b = x[:, 0], x[:, 1]
        t = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        rows = [torch.stack([b.cos(), t * a, 1 + 0 * a], -1), torch.stack([a * b, 2 + 0 * a, a.sin()], -1)]
        return torch.stack(rows, 1)

    def by_hand(self, x: Tensor, t: Tensor) -> Tensor:
        """With C = g g^T: C_11 = cos^2 b + t^2 a^2 + 1, C_12 = a b cos b + 2 t a + sin a,
        C_22 = a^2 b^2 + 4 + sin^2 a."""
        a, b = x[:, 0], x[:, 1]
        first = 2 * t**2 * a + a * b.cos() - a * b * b.sin()
        second = b * b.cos() + 2 * t + a.cos() + 2 * a**2 * b
        return torch.stack([first, second], -1)


class OneSource(SDE):
    """One Brownian motion for the whole sample, g = (x_1 x_2, x_2^2)."""

    noise_type: NoiseType = "scalar"
    T = 1.0

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return x * x[:, 1:]


def points(n: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 2, generator=generator, dtype=torch.float64),
        torch.rand(n, generator=generator, dtype=torch.float64),
    )


def test_divergence_of_full_noise_is_the_formula() -> None:
    x, t = points()
    torch.testing.assert_close(Sheared().noise_divergence(x, t), Sheared().by_hand(x, t), rtol=1e-13, atol=1e-13)
    alone = torch.cat([Sheared().noise_divergence(x[i : i + 1], t[i]) for i in range(len(x))])
    torch.testing.assert_close(alone, Sheared().by_hand(x, t), rtol=1e-13, atol=1e-13)


def test_divergence_of_diagonal_noise_is_the_formula_in_any_shape() -> None:
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gbm = GeometricBrownian()
    torch.testing.assert_close(gbm.noise_divergence(x, 0.2), 2 * gbm.nu**2 * x, rtol=1e-13, atol=0)


def test_divergence_of_one_noise_for_all_is_the_formula() -> None:
    """C = g g^T = [[a^2 b^2, a b^3], [a b^3, b^4]], div C = (2 a b^2 + 3 a b^2, b^3 + 4 b^3)."""
    x, _ = points()
    a, b = x.unbind(1)
    expected = torch.stack([5 * a * b**2, 5 * b**3], -1)
    torch.testing.assert_close(OneSource().noise_divergence(x, 0.5), expected, rtol=1e-13, atol=1e-13)


def test_general_noise_agrees_with_its_diagonal_and_scalar_cases() -> None:
    x, t = points()

    class Embedded(OneSource):
        noise_type = "general"

        def diffusion(self, x: Tensor, t: Time) -> Tensor:
            return (x * x[:, 1:]).unsqueeze(-1)

    class Diagonal(GeometricBrownian):
        noise_type = "general"

        def diffusion(self, x: Tensor, t: Time) -> Tensor:
            return (self.nu * x).diag_embed()

    for small, full in ((OneSource(), Embedded()), (GeometricBrownian(), Diagonal())):
        v = x.flip(0)
        torch.testing.assert_close(small.noise_divergence(x, t), full.noise_divergence(x, t))
        torch.testing.assert_close(small.covariance(x, t), full.covariance(x, t))
        torch.testing.assert_close(small.apply_diffusion(x, t, v), full.apply_diffusion(x, t, v))


def test_the_lectures_fokker_planck_equation_leaves_a_term_out() -> None:
    """The lognormal density of geometric Brownian motion obeys dp/dt = -d(f p - d(g^2 p)/dx/2)/dx; McAllester
    (2023) writes g^2 dp/dx for d(g^2 p)/dx, without the divergence of g^2 = nu^2 x^2."""
    gbm = GeometricBrownian()
    x = torch.linspace(0.5, 2, 7, dtype=torch.float64).reshape(-1, 1).requires_grad_()
    t = torch.full((), 0.4, dtype=torch.float64, requires_grad=True)
    mean, variance = (gbm.mu - 0.5 * gbm.nu**2) * t, 0.1 + gbm.nu**2 * t
    p = (-(x.log() - mean).square() / (2 * variance)).exp() / (x * (2 * math.pi * variance).sqrt())

    def slope(y: Tensor) -> Tensor:
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0]

    rate = torch.stack([torch.autograd.grad(value, t, retain_graph=True)[0] for value in p.flatten()])
    slide = slope(gbm.drift(x, t) * p - 0.5 * gbm.apply_diffusion(x, t, slope(p))).flatten()
    left_out = slope(0.5 * gbm.noise_divergence(x, t) * p).flatten()
    torch.testing.assert_close(rate, left_out - slide, rtol=1e-12, atol=1e-14)
    assert float((rate + slide).detach().abs().max()) > 0.1


def lognormal_score(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """d log p/dx of log x ~ N(mean, variance)."""
    return -(1 + (x.log() - mean) / variance) / x


def simulate(sde: SDE, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Euler-Maruyama from T to 0."""
    dt = sde.T / steps
    for k in range(steps):
        t = torch.tensor(sde.T - k * dt, dtype=x.dtype)
        g = sde.diffusion(x, t)
        if sde.noise_type == "general":
            dw = torch.randn(len(x), g.shape[-1], 1, generator=generator, dtype=x.dtype)
            noise = (g @ dw).squeeze(-1)
        else:
            noise = g * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x - dt * sde.drift(x, t) + math.sqrt(dt) * noise
    return x


@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
def test_reverse_of_geometric_brownian_motion_recovers_the_start(stochasticity: float) -> None:
    """log x_0 ~ N(m, v): at every t log x_t ~ N(m + (mu - nu^2/2) t, v + nu^2 t), so the score is known."""
    sde, m, v, n = GeometricBrownian(), 0.2, 0.09, 20_000
    generator = torch.Generator().manual_seed(2)

    def score(x: Tensor, t: Time) -> Tensor:
        t = as_time(t, x)
        return lognormal_score(x, m + (sde.mu - sde.nu**2 / 2) * t, v + sde.nu**2 * t)

    end_mean, end_std = m + sde.mu - sde.nu**2 / 2, math.sqrt(v + sde.nu**2)
    x = torch.exp(end_mean + end_std * torch.randn(n, 1, generator=generator, dtype=torch.float64))
    reverse = ReverseSDE(sde, score, stochasticity)
    log_x0 = simulate(reverse, x, 100, generator).log()
    # Three standard errors, and the bias of 100 Euler steps (it halves with twice as many).
    assert abs(float(log_x0.mean()) - m) < 3 * math.sqrt(v / n) + 4e-3
    assert abs(float(log_x0.var()) - v) < 3 * v * math.sqrt(2 / n) + 4e-3

    class Naive(ReverseSDE):
        """Without the divergence of g g^T."""

        def drift(self, x: Tensor, t: Time) -> Tensor:
            return super().drift(x, t) + 0.5 * (1 + self.stochasticity**2) * sde.noise_divergence(x, t)

    wrong = simulate(Naive(sde, score, stochasticity), x, 100, generator).log()
    assert abs(float(wrong.mean()) - m) > 0.1  # nu^2 T (1 + lambda^2)/2 * 2 = 0.25 or 0.5 too far, less the pull


def test_reverse_of_full_noise_recovers_a_gaussian() -> None:
    """With p_t = N(0, 1) x N(0, 1) kept by dx = (div C/2 - C x/2) dt + g dw, C = g g^T, the reverse has the same
    law: with g = [[1, 0], [sin x_1, 1]], C = [[1, s], [s, 1 + s^2]] and div C = (0, cos x_1)."""

    class Kept(SDE):
        noise_type = "general"
        T = 1.0

        def diffusion(self, x: Tensor, t: Time) -> Tensor:
            one, zero, s = torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0]), x[:, 0].sin()
            return torch.stack([torch.stack([one, zero], -1), torch.stack([s, one], -1)], 1)

        def drift(self, x: Tensor, t: Time) -> Tensor:
            divergence = torch.stack([torch.zeros_like(x[:, 0]), x[:, 0].cos()], -1)
            return 0.5 * (divergence - self.apply_diffusion(x, t, x))

    sde, n, steps = Kept(), 20_000, 100
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    # The reverse of a stationary process that is reversible is itself: drift -f + div C + C score = f.
    reverse = sde.reverse(lambda x, t: -x)
    torch.testing.assert_close(-reverse.drift(start, 0.5), sde.drift(start, 0.5), rtol=1e-12, atol=1e-12)
    x = simulate(reverse, start, steps, generator)
    assert float(x.mean(0).abs().max()) < 3.5 / math.sqrt(n) + 5e-3
    assert float((x.T.cov() - torch.eye(2)).abs().max()) < 3.5 * math.sqrt(2 / n) + 2e-2


class Scored:
    """A process and its score, as a model."""

    def __init__(self, sde: SDE, score: Callable[[Tensor, Time], Tensor]) -> None:
        self.sde, self.score = sde, score


@pytest.mark.parametrize("method", ["euler", "milstein"])
def test_torchsde_reverses_geometric_brownian_motion(method: Method) -> None:
    sde, m, v, n = GeometricBrownian(), 0.2, 0.09, 10_000

    def score(x: Tensor, t: Time) -> Tensor:
        t = as_time(t, x)
        return lognormal_score(x, m + (sde.mu - sde.nu**2 / 2) * t, v + sde.nu**2 * t)

    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    x = torch.exp(m + sde.mu - sde.nu**2 / 2 + math.sqrt(v + sde.nu**2) * z)
    solver = TorchSDE(method=method, steps=100, clock="t")
    log_x0 = sample(Scored(sde, score), solver, x_T=x, seed=1).log()
    assert abs(float(log_x0.mean()) - m) < 3 * math.sqrt(v / n) + 4e-3
    assert abs(float(log_x0.var()) - v) < 3 * v * math.sqrt(2 / n) + 4e-3


def test_torchsde_reverses_a_linear_process_with_matrix_noise() -> None:
    """Critically damped diffusion of N(0.5, 0.16), one noise for two components: moments at eps."""
    sde, n, eps = CriticallyDamped(), 10_000, 0.05
    start, m = torch.tensor([[0.16, 0.0], [0.0, 0.0]], dtype=torch.float64), torch.tensor([0.5, 0.0]).double()

    def moments(t: Time) -> tuple[Tensor, Tensor]:
        phi, _ = sde.moments(0.0, t)
        return phi @ m, phi @ start @ phi.mT + sde.covariance_at(t)

    def score(x: Tensor, t: Time) -> Tensor:
        mean, covariance = moments(t)
        return -torch.linalg.solve(covariance, (x - mean).mT).mT

    mean, covariance = moments(sde.T)
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = sample(
        Scored(sde, score),
        TorchSDE(method="euler", steps=1000, clock="t", eps=eps),
        x_T=mean + z @ torch.linalg.cholesky(covariance).mT,
        seed=2,
    )
    mean, covariance = moments(eps)
    # Four standard errors, and the bias of 1000 Euler steps: it was 0.015 at 300, 0.006 at 1200.
    assert float((x.mean(0) - mean).abs().max()) < 4 * 0.4 / math.sqrt(n) + 1e-2
    assert float((x.mT.cov() - covariance).abs().max()) < 4 * 0.16 * math.sqrt(2 / n) + 1e-2
