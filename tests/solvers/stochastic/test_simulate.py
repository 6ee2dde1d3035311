"""Forward simulation: the recursion, noise types, convergence, and independence of the batch."""

import math

import pytest
import torch
from lognormal import GeometricBrownian
from torch import Tensor

from backdrift.sde import SDE, VP, Brownian, OrnsteinUhlenbeck, Time
from backdrift.solvers import Noise, simulate


class Common(SDE):
    """Scalar noise: the same Brownian motion moves every component, each with its own strength."""

    T, noise_type, state_dependent = 1.0, "scalar", False

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return torch.tensor([1.0, -2.0, 3.0]).to(x)


class Mixed(SDE):
    """General noise: two Brownian motions move three components."""

    T, noise_type, state_dependent = 1.0, "general", False
    matrix = torch.tensor([[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]])

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return self.matrix.to(x).expand(len(x), -1, -1)


def test_the_lectures_recursion() -> None:
    """The path agrees with x + h f(x) + sqrt(h) g z, written out."""
    sde, times = VP(), torch.tensor([0.1, 0.15, 0.4, 1.0], dtype=torch.float64)
    x0 = torch.tensor([[1.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
    path = simulate(sde, x0, times, seed=3)
    noise, x = Noise(3, (2, 2), dtype=torch.float64), x0
    assert torch.equal(path[0], x0)
    for k in range(3):
        h, t = float(times[k + 1] - times[k]), times[k]
        beta = 0.1 + 19.9 * t
        x = x - 0.5 * beta * x * h + beta.sqrt() * math.sqrt(h) * noise()
        torch.testing.assert_close(path[k + 1], x, rtol=1e-13, atol=1e-13)


def test_brownian_motion_has_independent_increments() -> None:
    """The covariance of B_s and B_t is min(s, t), within 4.5 standard errors."""
    n = 5000
    times = torch.tensor([0.0, 0.5, 2.0, 3.0])
    path = simulate(Brownian(T=3.0), torch.zeros(n, 1, dtype=torch.float64), times, seed=1)[1:, :, 0]
    expected = torch.minimum(times[1:, None], times[None, 1:]).double()
    products = path[:, None] * path[None]
    assert ((products.mean(-1) - expected).abs() < 4.5 * products.std(-1) / math.sqrt(n)).all()


def test_stationary_density_stays() -> None:
    sde, n = OrnsteinUhlenbeck(rate=1.0, std=1.5, T=3.0), 4000
    x0 = 1.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = simulate(sde, x0, torch.linspace(0, 3, 301), seed=2)[-1]
    assert float(x.var() / 2.25) == pytest.approx(1, abs=4.5 * math.sqrt(2 / n) + 0.01)  # bias h/2 = 0.005


def brownian_end(seed: int, n: int, steps: int) -> Tensor:
    """The value W_T of the Brownian motions that `simulate` draws."""
    noise = Noise(seed, (n, 1), dtype=torch.float64)
    return sum((noise() for _ in range(steps)), torch.zeros(n, 1).double()) / math.sqrt(steps)


def test_strong_order_is_one_half_for_state_dependent_noise() -> None:
    """The mean distance to the exact geometric Brownian motion with the same W_T has order 1/2."""
    sde, n, errors, counts = GeometricBrownian(nu=0.8), 2000, [], (16, 64, 256)
    x0 = torch.ones(n, 1, dtype=torch.float64)
    for steps in counts:
        end = simulate(sde, x0, torch.linspace(0, 1, steps + 1).double(), seed=4)[-1]
        exact = torch.exp(sde.mu - sde.nu**2 / 2 + sde.nu * brownian_end(4, n, steps))
        errors.append(float((end - exact).abs().mean()))
    order = math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])
    assert order == pytest.approx(0.5, abs=0.1)


def test_scalar_noise_is_one_motion_for_all_components() -> None:
    path = simulate(Common(), torch.zeros(6, 3, dtype=torch.float64), [0.0, 0.3, 1.0], seed=5)[-1]
    torch.testing.assert_close(path, path[:, :1] * torch.tensor([1.0, -2.0, 3.0]).double())
    assert path[:, 0].unique().numel() == 6


def test_general_noise_has_the_matrix_covariance() -> None:
    n = 5000
    x = simulate(Mixed(), torch.zeros(n, 3, dtype=torch.float64), [0.0, 0.5, 1.0], seed=6)[-1]
    expected = (Mixed.matrix @ Mixed.matrix.T).double()
    products = x[:, :, None] * x[:, None]
    assert ((products.mean(0) - expected).abs() < 4.5 * products.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize(
    "sde", [VP(), GeometricBrownian(nu=0.8), Common(), Mixed()], ids=lambda sde: type(sde).__name__
)
def test_a_path_does_not_know_its_neighbours(sde: SDE) -> None:
    x0 = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.linspace(0.01, 1, 20)
    together = simulate(sde, x0, times, seed=8)
    for i in (0, 31, 63):
        alone = simulate(sde, x0[i : i + 1], times, seed=8, first=i)
        torch.testing.assert_close(alone[:, 0], together[:, i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 1, 4, 4), (5, 2, 3, 7), (5, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Each component of an image is a separate path, so the moments can be taken over all of them."""
    sde, times = VP(), torch.linspace(0, 1, 101, dtype=dtype)
    path = simulate(sde, torch.zeros(400, *shape[1:], dtype=dtype), times, seed=0)
    assert path.dtype == dtype
    variances = sde.sigma(times).square()
    last = float(variances[-1])
    assert float(path[-1].var()) == pytest.approx(last, abs=4.5 * math.sqrt(2 / path[-1].numel()) + 0.03)
    expected = variances.reshape(-1, *(1,) * len(shape[1:])).expand(-1, *shape[1:])
    torch.testing.assert_close(path.var(1), expected, rtol=0, atol=5.5 * math.sqrt(2 / 400) + 0.03)


@pytest.mark.parametrize("times", [[0.0, 0.5, 0.5], [0.0, 1.0, 0.5], [[0.0, 1.0]], [0.0, float("nan")]])
def test_times_must_rise_or_fall(times: list) -> None:
    with pytest.raises(ValueError, match=r"^times: expected times that rise or fall throughout"):
        simulate(VP(), torch.zeros(2, 3), times)


def test_simulation_makes_no_graph() -> None:
    x0 = torch.zeros(2, 3, requires_grad=True)
    assert not simulate(VP(), x0, [0.0, 0.5]).requires_grad
