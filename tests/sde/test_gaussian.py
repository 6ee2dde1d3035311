"""Gaussian processes: coefficients, marginals, transitions and bridges against what they must satisfy."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backdrift.sde import VE, VP, Brownian, CosineVP, GaussianSDE, OrnsteinUhlenbeck, Prior, Rectified, SubVP, as_time
from backdrift.solvers import simulate

SHIPPED = [
    VP(),
    VP(beta_min=0.5, beta_max=0.5, T=3.0),
    SubVP(),
    SubVP(beta_min=0.3, beta_max=4.0, T=2.0),
    CosineVP(),
    VE(),
    VE(sigma_min=0.01, sigma_max=5.0, T=2.0),
    Brownian(),
    Brownian(T=4.0),
    Rectified(),
    OrnsteinUhlenbeck(),
    OrnsteinUhlenbeck(rate=0.7, std=2.0, T=3.0),
]


class OnlyMarginals(GaussianSDE):
    """A user's process that gives nothing but alpha and sigma: here those of OrnsteinUhlenbeck(0.7, 2, 3)."""

    T = 3.0

    def __repr__(self) -> str:
        return "OnlyMarginals()"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.7 * t)

    def sigma(self, t: Tensor) -> Tensor:
        return 2.0 * (-torch.expm1(-1.4 * t)).sqrt()


PROCESSES = [*SHIPPED, OnlyMarginals()]


def inside(sde: GaussianSDE, n: int = 200, dtype: torch.dtype = torch.float64) -> Tensor:
    """Times from 1e-5 to T, crowded at the data and spread over the rest."""
    low = torch.logspace(-5, math.log10(sde.T), n, dtype=torch.float64)
    return torch.cat([low, torch.linspace(1e-5, sde.T, n, dtype=torch.float64)]).clamp(max=sde.T).to(dtype)


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_drift_and_diffusion_are_those_of_the_marginals(sde: GaussianSDE) -> None:
    """f = alpha'/alpha and g^2 = (sigma^2)' - 2 f sigma^2, whichever of the four is given in closed form."""
    t = inside(sde)
    one = torch.ones(len(t), 1, dtype=torch.float64)
    alpha, variance = sde.alpha(t), sde.sigma(t).square()
    f = derivative(sde.alpha, t) / alpha
    g2 = derivative(lambda t: sde.sigma(t).square(), t) - 2 * f * variance
    torch.testing.assert_close(sde.drift(one, t)[:, 0], f, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(sde.diffusion(one, t)[:, 0].square(), g2, rtol=1e-9, atol=0)


def test_a_process_of_alpha_and_sigma_alone_gets_the_right_rest() -> None:
    user, closed = OnlyMarginals(), OrnsteinUhlenbeck(rate=0.7, std=2.0, T=3.0)
    t = inside(closed)
    for name in ("f", "g", "log_snr"):
        torch.testing.assert_close(getattr(user, name)(t), getattr(closed, name)(t), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(user.t_from_log_snr(closed.log_snr(t)), t, rtol=1e-9, atol=0)
    assert user.eps == pytest.approx(closed.eps, rel=1e-12)
    assert user.prior.std == closed.prior.std


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_float32_keeps_its_digits_near_the_data(sde: GaussianSDE) -> None:
    """Relative error of sigma and g below 1e-5 from t = 1e-5 on, against float64 at the same times."""
    t = inside(sde, dtype=torch.float32).clamp(max=torch.tensor(sde.T).nextafter(torch.tensor(0.0)).item())
    for name in ("sigma", "g"):
        single, double = getattr(sde, name)(t), getattr(sde, name)(t.double())
        assert single.dtype == torch.float32
        assert ((single.double() - double) / double).abs().max() < 1e-5, name


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_log_snr_falls_and_has_an_inverse(sde: GaussianSDE) -> None:
    t = inside(sde).unique()
    t = t[torch.cat([torch.tensor([True]), t.diff() > 1e-9 * t[1:]])]  # the two halves of `inside` may meet
    log_snr = sde.log_snr(t)
    torch.testing.assert_close(log_snr, 2 * (sde.alpha(t) / sde.sigma(t)).log(), rtol=1e-12, atol=1e-12)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(sde.t_from_log_snr(log_snr), t, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_the_inverse_of_log_snr_has_the_derivative_of_an_inverse(sde: GaussianSDE) -> None:
    """dt/dl = 1/(dl/dt), by which times are fitted; also where the inverse is found by halving."""
    t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64) * sde.T
    log_snr = sde.log_snr(t).requires_grad_()
    (found,) = torch.autograd.grad(sde.t_from_log_snr(log_snr).sum(), log_snr)
    torch.testing.assert_close(found, 1 / derivative(sde.log_snr, t), rtol=1e-7, atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_eps_is_where_sigma_over_alpha_is_small_enough(sde: GaussianSDE) -> None:
    ratio = float(sde.sigma(sde.eps) / sde.alpha(sde.eps))
    assert ratio == pytest.approx(sde.end_ratio, rel=1e-6) or (sde.eps == 0 and ratio > sde.end_ratio)


def test_brownian_motion_of_the_lecture() -> None:
    """z(t) = z(0) + sqrt(t) eps."""
    sde, t = Brownian(T=9.0), torch.tensor(4.0, dtype=torch.float64)
    x0 = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    noise = torch.tensor([[0.5, 3.0]], dtype=torch.float64)
    assert torch.equal(sde.perturb(x0, t, noise), x0 + 2 * noise)
    assert sde.prior.std == 3.0


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_simulating_drift_and_diffusion_gives_the_marginal(sde: GaussianSDE) -> None:
    """4000 Euler-Maruyama paths from the marginal at an early time; mean and variance within 4.5 standard errors."""
    first, last = torch.tensor([sde.t_from_log_snr(torch.tensor(5.0).double()), 0.95 * sde.T], dtype=torch.float64)
    n, steps = 4000, 800
    # Half the times even in log-SNR, half in t: the bias of either end is then far below the standard error.
    ends = sde.log_snr(torch.stack([first, last]))
    even = sde.t_from_log_snr(torch.linspace(0, 1, steps // 2 + 1).double() * (ends[1] - ends[0]) + ends[0])
    times = torch.cat([even, torch.linspace(0, 1, steps // 2 + 1).double() * (last - first) + first])
    times = times.clamp(first, last).unique()
    x0 = torch.full((n, 1), 1.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    start = sde.perturb(x0, first, torch.randn(n, 1, generator=generator, dtype=torch.float64))
    path = simulate(sde, start, times, seed=5)
    for k in (len(times) // 2, len(times) - 1):
        mean, std = sde.marginal(x0[0], times[k])
        x = path[k, :, 0]
        assert abs(float(x.mean() - mean)) < 4.5 * float(std) / math.sqrt(n)
        assert float(x.var() / std.square()) == pytest.approx(1, abs=4.5 * math.sqrt(2 / n))


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_transitions_compose(sde: GaussianSDE) -> None:
    """Going from r to t by way of s is going from r to t; starting at the data it is the marginal."""
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    r, s, t = (torch.linspace(a, b, 6, dtype=torch.float64) * sde.T for a, b in ((1e-4, 0.3), (0.02, 0.6), (0.5, 1)))
    mean_s, std_s = sde.transition(x, r, s)
    mean_t, std_t = sde.transition(mean_s, s, t)
    kept = as_time(sde.alpha(t) / sde.alpha(s), x)
    mean, std = sde.transition(x, r, t)
    torch.testing.assert_close(mean_t, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close((std_t.square() + (kept * std_s).square()).sqrt(), std, rtol=1e-10, atol=0)
    # The marginal at r followed by the transition is the marginal at t.
    m_r, sd_r = sde.marginal(x, r)
    m_t, fresh = sde.transition(m_r, r, t)
    total = (fresh.square() + (as_time(sde.alpha(t) / sde.alpha(r), x) * sd_r).square()).sqrt()
    torch.testing.assert_close(m_t, sde.marginal(x, t)[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(total, sde.marginal(x, t)[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_standing_still_adds_nothing(sde: GaussianSDE) -> None:
    x = torch.ones(3, 2, dtype=torch.float64)
    for t in (0.0, 0.4 * sde.T, sde.T):
        mean, std = sde.transition(x, t, t)
        assert torch.equal(mean, x)
        assert torch.equal(std, torch.zeros_like(std))


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_bridge_is_gaussian_conditioning(sde: GaussianSDE) -> None:
    """x_s given x_t and x_0, from the joint normal of (x_s, x_t) given x_0 by its covariance matrix."""
    generator = torch.Generator().manual_seed(2)
    x0, x_t = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    s = torch.tensor([1e-4, 0.1, 0.3, 0.5, 0.8], dtype=torch.float64) * sde.T
    t = torch.tensor([2e-4, 0.2, 1.0, 0.9, 0.81], dtype=torch.float64) * sde.T
    a_s, a_t, var_s, var_t = sde.alpha(s), sde.alpha(t), sde.sigma(s).square(), sde.sigma(t).square()
    covariance = a_t / a_s * var_s
    gain = covariance / var_t
    mean = as_time(a_s, x0) * x0 + as_time(gain, x0) * (x_t - as_time(a_t, x0) * x0)
    variance = var_s - gain * covariance
    got_mean, got_std = sde.bridge(x_t, x0, s, t)
    torch.testing.assert_close(got_mean, mean, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(got_std[:, 0].square(), variance, rtol=1e-9, atol=0)


def test_bridges_of_the_lectures() -> None:
    """q(x_{t-1} | x_t, x_0): Isachenko (2023) is right; the notes after Bishop have sqrt(1 - alpha_{t-1}) for
    sqrt(alpha_{t-1}) before x_0; McAllester (2023) has Brownian motion's mean exactly, its variance to first order."""
    x_t, x0 = torch.tensor([[0.7, -1.2]]).double(), torch.tensor([[2.0, 0.5]]).double()
    sde: GaussianSDE = VP()
    s, t = 0.3, 0.35
    bar_s, bar_t = float(sde.alpha(s)) ** 2, float(sde.alpha(t)) ** 2
    alpha = bar_t / bar_s  # alpha_t = 1 - beta_t
    mean, std = sde.bridge(x_t, x0, s, t)
    kept = math.sqrt(alpha) * (1 - bar_s) / (1 - bar_t) * x_t
    torch.testing.assert_close(mean, kept + math.sqrt(bar_s) * (1 - alpha) / (1 - bar_t) * x0, rtol=1e-12, atol=0)
    assert float(std) ** 2 == pytest.approx((1 - alpha) * (1 - bar_s) / (1 - bar_t), rel=1e-12)
    assert float((mean - kept - math.sqrt(1 - bar_s) * (1 - alpha) / (1 - bar_t) * x0).abs().max()) > 0.1

    t, gaps = 4.0, []
    for step in (0.5, 0.25):
        mean, std = Brownian(T=9.0).bridge(x_t, x0, t - step, t)
        torch.testing.assert_close(mean, x_t + step * (x0 - x_t) / t, rtol=1e-12, atol=0)
        gaps.append(step - float(std) ** 2)
    assert gaps == pytest.approx([0.5**2 / t, 0.25**2 / t], rel=1e-12)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_bridge_ends_at_the_data(sde: GaussianSDE) -> None:
    x0, x_t = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[-3.0, 0.5]]).double()
    if float(sde.sigma(0.0)) == 0:  # VE's x at 0 is blurred
        mean, std = sde.bridge(x_t, x0, 0.0, 0.7 * sde.T)
        torch.testing.assert_close(mean, x0)
        assert not std.any()


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 1, 4, 4), (5, 2, 3, 7), (5, 0)])
def test_a_scalar_time_is_that_time_for_every_sample(shape: tuple[int, ...]) -> None:
    sde = VP()
    x, x0 = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for s, t in (
        (0.25, 0.625),
        (torch.tensor(0.25), torch.tensor(0.625).double()),
        (torch.full((5,), 0.25), torch.full((5,), 0.625).double()),
    ):
        parts = [sde.drift(x, t), sde.diffusion(x, t), sde.perturb(x, t, x0)]
        parts += [*sde.marginal(x, t), *sde.transition(x, s, t), *sde.bridge(x, x0, s, t)]
        results.append([part.expand(shape) for part in parts])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-15, atol=0)


def test_each_sample_has_its_own_time() -> None:
    sde = SubVP()
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.1, 0.4, 0.9, 1.0], dtype=torch.float64)
    together = sde.drift(x, t)
    for i in range(4):
        assert torch.equal(together[i : i + 1], sde.drift(x[i : i + 1], t[i]))
        assert torch.equal(sde.diffusion(x, t)[i].flatten()[0], sde.g(t[i]))


@pytest.mark.parametrize("bad", [torch.zeros(2), torch.zeros(5, 1), torch.zeros(1, 5), torch.zeros(0)])
def test_a_time_of_the_wrong_shape_is_refused(bad: Tensor) -> None:
    x, sde = torch.zeros(5, 3), VP()
    for call in (
        lambda: sde.drift(x, bad),
        lambda: sde.diffusion(x, bad),
        lambda: sde.marginal(x, bad),
        lambda: sde.perturb(x, bad),
        lambda: sde.transition(x, 0.0, bad),
        lambda: sde.bridge(x, x, bad, 1.0),
    ):
        with pytest.raises(ValueError, match=r"^t: expected a scalar or one time per sample.*\[5, 3\]"):
            call()


def test_going_back_in_time_is_refused() -> None:
    x, sde = torch.zeros(2, 3), VP()
    with pytest.raises(ValueError, match="s <= t"):
        sde.transition(x, 0.5, 0.4)
    with pytest.raises(ValueError, match="s <= t"):
        sde.bridge(x, x, torch.tensor([0.1, 0.9]), 0.8)


def test_dtype_follows_x() -> None:
    sde = CosineVP()
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(3, 2, dtype=dtype)
        for t in (0.3, torch.tensor(0.3).double(), torch.full((3,), 0.3)):
            parts = (sde.drift(x, t), sde.diffusion(x, t), *sde.marginal(x, t), *sde.transition(x, 0.1, t))
            assert {part.dtype for part in parts} == {dtype}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: VP(beta_min=-1.0), "beta_min"),
        (lambda: VP(beta_min=3.0, beta_max=2.0), "beta_max"),
        (lambda: SubVP(T=0.0), "T"),
        (lambda: VE(sigma_min=0.0), "sigma_min"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "sigma_max"),
        (lambda: Brownian(T=-1.0), "T"),
        (lambda: Rectified(T=1.1), "T"),
        (lambda: CosineVP(T=1.5), "T"),
        (lambda: OrnsteinUhlenbeck(std=float("nan")), "std"),
        (lambda: OrnsteinUhlenbeck(rate="fast"), "rate"),  # type: ignore[arg-type]
    ],
)
def test_parameters_that_make_no_sense_are_named(make: Callable[[], GaussianSDE], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        make()


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 5, 5)])
def test_prior_is_the_normal_density(shape: tuple[int, ...]) -> None:
    prior = Prior(3.0)
    x = prior.sample(shape, torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.distributions.Normal(torch.zeros(()).double(), 3.0).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(x), expected, rtol=1e-13, atol=0)
    many = prior.sample((20000, 1), torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(many.var() / 9) == pytest.approx(1, abs=4 * math.sqrt(2 / 20000))


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_prior_has_the_marginals_width(sde: GaussianSDE) -> None:
    assert sde.prior.std == float(sde.marginal(torch.zeros(1, 1).double(), sde.T)[1])


@pytest.mark.parametrize("sde", [VP(), VE(), CosineVP(), SubVP(), Rectified(), Brownian()], ids=repr)
@pytest.mark.parametrize("gap", [1e-2, 1e-5])
def test_near_times_keep_their_digits_in_float32(sde: GaussianSDE, gap: float) -> None:
    """Between s = 0.01 T and (1 + gap) s the standard deviation in float32 is that of float64 to 1e-6.

    With times in float32 it was off by 0.6 to 2.6% for a gap of 1e-5.
    """
    s, t = 0.01 * sde.T, 0.01 * sde.T * (1 + gap)
    x = torch.ones(2, 3)
    for single, double in (
        (sde.transition(x, s, t), sde.transition(x.double(), s, t)),
        (sde.bridge(x, 2 * x, s, t), sde.bridge(x.double(), 2 * x.double(), s, t)),
    ):
        assert single[0].dtype == single[1].dtype == torch.float32
        torch.testing.assert_close(single[0].double(), double[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(single[1].double(), double[1], rtol=1e-6, atol=0)


def test_a_coefficient_that_is_no_tensor_is_named() -> None:
    """`def alpha(self, t): return 1.0` is a likely slip, and was an error without a word on alpha."""

    class Constant(GaussianSDE):
        T = 1.0

        def alpha(self, t: Tensor) -> Tensor:
            return 1.0  # type: ignore[return-value]

        def sigma(self, t: Tensor) -> Tensor:
            return t

    with pytest.raises(TypeError, match=r"^alpha: expected a tensor shaped like t, got 1.0; .*full_like\(t, c\)$"):
        Constant().alpha(torch.tensor(0.5))
