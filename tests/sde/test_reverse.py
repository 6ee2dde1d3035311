"""The reverse process on a Gaussian, whose moments and paths are known exactly."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from backdrift.sde import VE, VP, Brownian, CosineVP, GaussianSDE, OrnsteinUhlenbeck, Rectified, ReverseSDE, SubVP, Time
from backdrift.solvers import simulate

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Brownian(T=100.0), Rectified(), OrnsteinUhlenbeck(std=2.0)]
MEAN, STD = 0.7, 0.6


def moments_of(sde: GaussianSDE, t: float) -> tuple[float, float]:
    """Mean and variance of p_t where the data are N(MEAN, STD^2)."""
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    return alpha * MEAN, alpha**2 * STD**2 + sigma**2


def score_of(sde: GaussianSDE) -> Callable[[Tensor, Time], Tensor]:
    def score(x: Tensor, t: Time) -> Tensor:
        mean, variance = moments_of(sde, float(t))
        return (mean - x) / variance

    return score


def backwards(rate: Callable[[float, np.ndarray], list[float]], start: tuple[float, ...], T: float, end: float) -> list:
    return solve_ivp(rate, (T, end), start, "DOP853", rtol=1e-10, atol=1e-14).y[:, -1].tolist()


# The lecture's slide ------------------------------------------------------------------------------


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("drift", "noise", "holds"),
    [
        (lambda lam: (1 + lam**2) / 2, lambda lam: lam, lambda lam: True),
        (lambda lam: (1 + lam) / 2, lambda lam: math.sqrt(lam), lambda lam: True),
        (lambda lam: (1 + lam) / 2, lambda lam: lam, lambda lam: lam in (0, 1)),
    ],
    ids=["ours", "slide-mended", "slide"],
)
def test_mcallesters_slide(stochasticity: float, drift: Callable, noise: Callable, holds: Callable) -> None:
    """Brownian motion of N(0, v): p_t = N(0, v + t). Run back with dx = c score dtau + q dw, tau = T - t,

    the variance V obeys dV/dtau = q^2 - 2 c V/(v + t), which must be -1 at V = v + t: c = (1 + q^2)/2.
    """
    c, q, v, T = drift(stochasticity), noise(stochasticity), STD**2, 9.0
    (end,) = backwards(lambda t, V: [2 * c * V[0] / (v + t) - q**2], (v + T,), T, 0.0)
    if holds(stochasticity):
        assert end == pytest.approx(v, rel=1e-7)
    else:
        assert abs(end / v - 1) > 0.2


def test_the_reverse_of_brownian_motion_is_the_mended_one() -> None:
    sde = Brownian(T=9.0)
    x = torch.tensor([[2.0]], dtype=torch.float64)
    for lam in (0.0, 0.5, 1.0, 2.0):
        reverse = sde.reverse(score_of(sde), lam)
        assert float(reverse.drift(x, 4.0)) == pytest.approx(-0.5 * (1 + lam**2) * (MEAN - 2.0) / (STD**2 + 4))
        assert float(reverse.diffusion(x, 4.0)) == lam


# Every process -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_reverse_has_the_forward_marginals(sde: GaussianSDE, stochasticity: float) -> None:
    """Moment equations of the reverse's own drift and diffusion, from p_T down to an early time."""
    reverse = sde.reverse(score_of(sde), stochasticity)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)

    def rate(t: float, moments: np.ndarray) -> list[float]:
        offset = float(reverse.drift(zero, t))
        slope = float(reverse.drift(one, t)) - offset
        # Backwards in time noise adds variance: dV/dt = 2 slope V - g^2.
        return [slope * moments[0] + offset, 2 * slope * moments[1] - float(reverse.diffusion(zero, t)) ** 2]

    end = float(sde.t_from_log_snr(torch.tensor(6.0).double()))
    mean, variance = backwards(rate, moments_of(sde, sde.T), sde.T, end)
    expected_mean, expected_variance = moments_of(sde, end)
    assert mean == pytest.approx(expected_mean, rel=1e-6)
    assert variance == pytest.approx(expected_variance, rel=1e-6)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_probability_flow_of_a_gaussian(sde: GaussianSDE) -> None:
    """x_t = m_t + sqrt(V_t/V_T) (x_T - m_T): the map that keeps quantiles."""
    flow = sde.reverse(score_of(sde), 0.0)
    assert not flow.diffusion(torch.ones(1, 1).double(), 0.5).any()
    mean_T, var_T = moments_of(sde, sde.T)
    end = float(sde.t_from_log_snr(torch.tensor(6.0).double()))
    mean, variance = moments_of(sde, end)
    for quantile in (-2.0, 0.3):
        start = mean_T + quantile * math.sqrt(var_T)
        (x,) = backwards(lambda t, x: flow.drift(torch.from_numpy(x)[None], t)[0].tolist(), (start,), sde.T, end)
        assert x == pytest.approx(mean + quantile * math.sqrt(variance), rel=1e-7)


@pytest.mark.parametrize("stochasticity", [0.5, 1.0])
def test_simulated_reverse_paths_reach_the_data(stochasticity: float) -> None:
    """4000 paths, by the very `simulate` that runs the forward process, within 4 standard errors (and bias of 1%)."""
    sde, n = VP(), 4000
    mean, variance = moments_of(sde, sde.T)
    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    times = torch.linspace(1, 0, 401, dtype=torch.float64).square() * (sde.T - 1e-3) + 1e-3
    x = simulate(sde.reverse(score_of(sde), stochasticity), mean + math.sqrt(variance) * z, times, seed=4)[-1]
    mean, variance = moments_of(sde, 1e-3)
    assert float(x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    assert float(x.var() / variance) == pytest.approx(1, abs=4 * math.sqrt(2 / n) + 0.01)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), "much", True])
def test_stochasticity_must_be_a_number_not_below_zero(bad: object) -> None:
    with pytest.raises(ValueError, match=r"^stochasticity: "):
        VP().reverse(score_of(VP()), bad)  # type: ignore[arg-type]


def test_reverse_says_what_it_is() -> None:
    sde = VP(T=2.0)
    reverse = sde.reverse(score_of(sde))
    assert isinstance(reverse, ReverseSDE)
    assert (reverse.T, reverse.noise_type, reverse.state_dependent) == (2.0, "diagonal", False)
