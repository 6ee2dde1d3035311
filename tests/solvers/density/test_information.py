"""Information and densities by the I-MMSE relation, the continuous bound and dequantisation, against closed forms."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from scipy import stats
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, Brownian, CriticallyDamped, FunctionModel, GaussianSDE, Time, as_time
from backdrift.solvers import Independent, Noise, elbo, entropy, log_density, mutual_information, relative_entropy
from backdrift.solvers.density.dequantisation import importance_bound, truncated_normal_noise, uniform_noise
from backdrift.solvers.density.information import Information
from backdrift.solvers.density.monte_carlo import MonteCarlo
from backdrift.solvers.noise import FORWARD


def mixture(sde: GaussianSDE, dim: int = 6) -> GaussianMixture:
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(4, dim, generator=generator, dtype=torch.float64)
    variances = 0.05 + 0.5 * torch.rand(4, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture(means, variances, sde=sde)


def draws(model: GaussianMixture, n: int, noisy: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = model.sample(n, generator)
    return model.sde.perturb(x, model.sde.eps, torch.randn(x.shape, generator=generator).double()) if noisy else x


def within(value: float, expected: float, error: float, times: float = 4.0) -> bool:
    return abs(value - expected) <= times * error


@pytest.mark.parametrize("sde", [VP(), Brownian()], ids=["VP", "Brownian"])
def test_the_true_score_makes_the_bound_an_equality(sde: GaussianSDE) -> None:
    model = mixture(sde)
    x = draws(model, 300, noisy=True)
    found = elbo(model, x)
    off, error = found.value - model.log_prob(x, sde.eps), found.standard_error
    assert within(float(off.mean()), 0.0, float(error.square().mean() / 300) ** 0.5)
    # The error is what it says: E[off^2] = E[error^2]. (One by one they are skewed: where a rare draw is missing,
    # both the value and its error are too small.) The ratio's own error is about 1/sqrt(2 x 300) = 0.04.
    assert float((off.square().mean() / error.square().mean()).sqrt()) == pytest.approx(1, abs=0.16)
    assert found.nfe == 128


@pytest.mark.parametrize("eps", [0.1, 0.3, 0.6])
def test_the_bound_is_that_of_the_density_at_eps(eps: float) -> None:
    """Also far from the data, where alpha is 0.95, 0.63 and 0.16: the mean over 300 samples is within 4 standard
    errors.
    """
    model = mixture(VP())
    x = draws(model, 300)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    x = model.sde.perturb(x, eps, noise)
    found = elbo(model, x, eps=eps)
    off, error = found.value - model.log_prob(x, eps), found.standard_error
    assert within(float(off.mean()), 0.0, float(error.square().mean() / 300) ** 0.5)
    assert float(error.square().mean() / 300) ** 0.5 < 0.035


def test_a_wrong_score_stays_below() -> None:
    model = mixture(VP())
    x = draws(model, 300, noisy=True)
    wrong = GaussianMixture(model.means * 0.7, 0.4, sde=VP())
    gap = elbo(wrong, x).value - model.log_prob(x, model.sde.eps)
    assert float(gap.mean()) < -4 * float(gap.std()) / math.sqrt(300)


def test_normal_data_leave_nothing_to_chance() -> None:
    model = GaussianMixture(torch.zeros(1, 3).double(), 0.49, sde=Brownian())
    x = draws(model, 5)
    found = log_density(model, x, data_std=0.7)
    # What is left is the range of u: from eps, where a noise of 2e-3 is added, to T.
    torch.testing.assert_close(found.value, model.log_prob(x), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.standard_error, torch.zeros(5).double(), atol=1e-9, rtol=0)
    x = draws(model, 5, noisy=True)
    bound = elbo(model, x, data_std=0.7)
    torch.testing.assert_close(bound.value, model.log_prob(x, model.sde.eps), atol=1e-3, rtol=0)  # the prior's gap
    torch.testing.assert_close(bound.standard_error, torch.zeros(5).double(), atol=1e-9, rtol=0)


def test_pointwise_density_and_entropy() -> None:
    model = mixture(VP())
    x = draws(model, 300)
    found = log_density(model, x)
    off = (found.value - model.log_prob(x)) / found.standard_error
    assert within(float(off.mean()), 0.0, 1 / math.sqrt(300))
    assert 0.8 < float(off.square().mean().sqrt()) < 1.25
    sharp = float(-model.log_prob(draws(model, 200_000)).mean())
    h = entropy(model, x)
    assert within(h.value, sharp, h.standard_error)


def test_information_beyond_the_end_of_a_short_process_is_counted() -> None:
    """I = log(1 + c/s^2)/2 of N(0, c) is exact at x^2 = c. Of 0.06 beyond sigma = 3 the square of 0.06 is not known."""
    sde, c, t = VE(sigma_max=3.0), 1.1, 0.9
    model = GaussianMixture(torch.zeros(1, 1).double(), c, sde=sde)
    x = torch.tensor([[math.sqrt(c)], [-math.sqrt(c)]], dtype=torch.float64)
    found = mutual_information(model, x, t, strata=4, draws=3)
    expected = 0.5 * math.log1p(c / float(sde.sigma(t)) ** 2)
    assert abs(found.value - expected) < 0.06**2 < 0.06 < expected
    assert found.samples.nfe == 4 * 3 + 1


@pytest.mark.parametrize("t", [0.05, 0.3, 0.7])
def test_information_of_a_gaussian_channel(t: float) -> None:
    """I(x_0; x_t) = log det(I + snr C)/2."""
    sde = VP()
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    model = GaussianMixture(torch.zeros(1, 2).double(), covariance[None], sde=sde)
    snr = math.exp(float(sde.log_snr(torch.tensor(t))))
    expected = 0.5 * float(torch.logdet(torch.eye(2).double() + snr * covariance))
    found = mutual_information(model, draws(model, 4000), t)
    assert within(found.value, expected, found.standard_error)
    assert found.standard_error < 0.03 * expected


def test_the_lectures_integral_over_time() -> None:
    """McAllester (2023): I(y, z(t_0)) = int_{t_0}^inf E|y - E[y|z(t)]|^2/(2 t^2) dt for Brownian motion.

    For y ~ N(0, c): the integrand is c/(2 t (t + c)), the integral log(1 + c/t_0)/2.
    """
    c, t0 = 1.7, 0.3
    t = torch.logspace(math.log10(t0), 9, 20001, dtype=torch.float64)
    lecture = float(torch.trapezoid(c / (2 * t * (t + c)), t))
    assert lecture == pytest.approx(0.5 * math.log1p(c / t0), rel=1e-5)
    model = GaussianMixture(torch.zeros(1, 1).double(), c, sde=Brownian())
    found = mutual_information(model, draws(model, 4000), t0, data_std=math.sqrt(c))
    assert within(found.value, lecture, found.standard_error)
    assert found.standard_error < 0.01


class Damped:
    """A score for a process that is not Gaussian."""

    sde = CriticallyDamped()

    def score(self, x: Tensor, t: Time) -> Tensor:
        return -x


class Given:
    """The denoiser of the density of a given b, N(rho b, 1 - rho^2), for correlated unit normals a and b."""

    def __init__(self, b: Tensor, rho: float, sde: GaussianSDE) -> None:
        self.b, self.rho, self.sde = b, rho, sde

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        t = as_time(t, x)
        alpha, sigma2, v = self.sde.alpha(t), self.sde.sigma(t).square(), 1 - self.rho**2
        mean = self.rho * self.b
        return mean + alpha * v / (alpha.square() * v + sigma2) * (x - alpha * mean)


@pytest.mark.parametrize("by", ["difference", "errors"])
def test_information_between_correlated_normals(by: Any) -> None:
    rho, sde = 0.8, VP()
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]]).double()
    joint = GaussianMixture(torch.zeros(1, 2).double(), covariance[None], sde=sde)
    one = GaussianMixture(torch.zeros(1, 1).double(), 1.0, sde=sde)
    expected = -0.5 * math.log(1 - rho**2)
    n = 12_000
    x = draws(joint, n)
    for p, q, at in ((joint, Independent([one, one], [1, 1]), x), (Given(x[:, 1:], rho, sde), one, x[:, :1])):
        found = relative_entropy(p, q, at, by=by, strata=12)
        assert within(found.value, expected, found.standard_error)
        if by == "difference" and p is joint:
            assert abs(found.value / expected - 1) < 0.01  # to 1%
    with pytest.raises(ValueError, match="by"):
        relative_entropy(joint, joint, x, by="chance")  # type: ignore[arg-type]


def test_alone_and_in_a_batch() -> None:
    model = mixture(VP())
    x = draws(model, 4)
    for estimate in (log_density, elbo):
        together = estimate(model, x, strata=4, seed=5)
        alone = estimate(model, x[2:3], strata=4, seed=5, first=2)
        torch.testing.assert_close(alone.value[0], together.value[2])
        torch.testing.assert_close(alone.standard_error[0], together.standard_error[2])


@pytest.mark.slow
@pytest.mark.parametrize("estimate", [log_density, elbo])
def test_time_sampling_intervals_cover_as_often_as_they_say(estimate: Any) -> None:
    model = mixture(VP())
    noisy = estimate is elbo
    x = draws(model, 2000, noisy)
    expected = model.log_prob(x, model.sde.eps) if noisy else model.log_prob(x)
    low, high = estimate(model, x, strata=32, draws=4).interval()
    assert 0.93 <= float(((low <= expected) & (expected <= high)).double().mean()) <= 0.97


def held(each: Tensor, expected: float) -> tuple[float, float]:
    """The share of rows of `each` whose 95% interval of the mean holds the truth, and stated over true error."""
    value, error = each.mean(1), each.std(1) / math.sqrt(each.shape[1])
    off = value - expected
    return float((off.abs() <= 1.96 * error).double().mean()), float(error.mean() / off.square().mean().sqrt())


def expectation(model: GaussianMixture, t: float | None, of: Any) -> float:
    """E of(x_t) in one dimension, by the trapezoidal rule."""
    reach = 12.0 * max(1.0, 0.0 if t is None else float(model.sde.sigma(t)))
    x = torch.linspace(-reach, reach, 200_001, dtype=torch.float64).unsqueeze(1)
    return float(torch.trapezoid(model.log_prob(x, t).exp() * of(x), x.flatten()))


@pytest.mark.slow
@pytest.mark.parametrize("sde", [VP(), Brownian()], ids=["VP", "Brownian"])
def test_stated_errors_of_information_hold_as_often_as_they_say(sde: GaussianSDE) -> None:
    """500 trials of 200 samples each hold the truth in 93% at least, by an error of the true size to a tenth."""
    covariance = torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()
    normal = GaussianMixture(torch.zeros(1, 2).double(), covariance[None], sde=sde)
    means, variances = torch.tensor([[-1.5], [0.2], [1.0]]).double(), torch.tensor([[0.05], [0.3], [0.1]]).double()
    three = GaussianMixture(means, variances, torch.tensor([0.5, 0.3, 0.2]).double(), sde=sde)
    other = GaussianMixture(0.7 * means, 0.6, sde=sde)
    found = []
    for t in (0.05, 0.5):
        snr, noise = float(sde.log_snr(t).exp()), 0.5 * math.log(2 * math.pi * math.e * float(sde.sigma(t)) ** 2)
        of_noised = expectation(three, t, lambda x, t=t: -three.log_prob(x, t))
        found.append((mutual_information(three, draws(three, 100_000), t), 1.0, of_noised - noise))
        exact = 0.5 * float(torch.logdet(torch.eye(2).double() + snr * covariance))
        found.append((mutual_information(normal, draws(normal, 100_000), t), 1.0, exact))
    x = draws(three, 100_000)
    found.append((entropy(three, x), -1.0, expectation(three, None, lambda x: -three.log_prob(x))))
    apart = expectation(three, sde.eps, lambda x: three.log_prob(x, sde.eps) - other.log_prob(x, sde.eps))
    ways: tuple[Any, ...] = ("difference", "errors")
    found += [(relative_entropy(three, other, x, by=by), 1.0, apart) for by in ways]
    for number, (estimate, sign, expected) in enumerate(found):
        share, size = held(sign * estimate.samples.value.reshape(500, 200), expected)
        print(f"{number}: {100 * share:.1f}% held, stated error {size:.2f} times the true one")
        assert share >= 0.93 - 2 * math.sqrt(0.95 * 0.05 / 500) and 0.9 < size < 1.2


def test_bad_input_is_named() -> None:
    model = mixture(VP())
    x = draws(model, 2)
    with pytest.raises(ValueError, match="draws"):
        elbo(model, x, draws=1)
    with pytest.raises(ValueError, match="strata"):
        log_density(model, x, strata=0)
    with pytest.raises(ValueError, match=r"^t: "):
        mutual_information(model, x, 1.5)
    for estimate in (elbo, log_density, entropy):
        with pytest.raises(ValueError, match=r"^x: "):
            estimate(model, torch.zeros(3, dtype=torch.long))
        with pytest.raises(ValueError, match=r"^model: expected one of a Gaussian process"):
            estimate(Damped(), x)
        with pytest.raises(TypeError, match=r"^model: "):
            estimate(FunctionModel(lambda x, t: x[:, :1], VP(), predicts="denoised"), x)


def test_independent_parts_are_checked() -> None:
    one = mixture(VP(), dim=2)
    with pytest.raises(ValueError, match="as many of each"):
        Independent([one, one], [2])
    with pytest.raises(ValueError, match="sizes: "):
        Independent([one], [0])
    with pytest.raises(ValueError, match="models: expected one process"):
        Independent([one, one.under(Brownian())], [2, 2])
    both = Independent([one, one], [2, 2])
    with pytest.raises(ValueError, match="x: expected 4 components"):
        both.denoise(torch.zeros(1, 5).double(), torch.tensor(0.5))


class Reparametrised(GaussianSDE):
    """Brownian motion up to T, with factors in front of alpha and sigma."""

    def __init__(self, end: float = 2.0, alpha: float = 1.0, sigma: float = 1.0) -> None:
        self.T, self.factors = end, (alpha, sigma)

    def alpha(self, t: Time) -> Tensor:
        return self.factors[0] * torch.ones_like(torch.as_tensor(t, dtype=torch.float64))

    def sigma(self, t: Time) -> Tensor:
        return self.factors[1] * torch.as_tensor(t, dtype=torch.float64) / self.T


@pytest.mark.parametrize("other", [{"end": 3.0}, {"alpha": 0.5}, {"sigma": 2.0}], ids=str)
def test_independent_parts_have_one_end_one_alpha_and_one_sigma(other: dict[str, float]) -> None:
    """Where one of the three differs the parts are refused, also the last of them. Equal ones may be two objects."""
    one, same = (mixture(Reparametrised(), dim=2) for _ in range(2))
    Independent([one, same], [2, 2])
    with pytest.raises(ValueError, match="models: expected one process"):
        Independent([one, same, mixture(Reparametrised(**other), dim=2)], [2, 2, 2])


def test_independent_parts_take_their_components_in_turn() -> None:
    one, two = mixture(VP(), dim=2), mixture(VP(), dim=3)
    x, t = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5), torch.tensor(0.3)
    expected = torch.cat([one.denoise(x[:, :2], t), two.denoise(x[:, 2:], t)], 1)
    torch.testing.assert_close(Independent([one, two], [2, 3]).denoise(x, t), expected)
    torch.testing.assert_close(Independent([two], [3]).denoise(x[:, :3], t), two.denoise(x[:, :3], t))


def test_averages_tell_the_mean_and_its_error() -> None:
    """Of 1, 2, 4, 5: mean 3, standard deviation sqrt(10/3), error of the mean 0.913. One sample has its draws'."""
    value = torch.tensor([1.0, 2.0, 4.0, 5.0])
    found = MonteCarlo(value, torch.tensor([0.1, 0.2, 0.3, 0.8]), torch.full((4,), 3.0), nfe=64, seed=5)
    assert str(found) == "3 ± 0.91 nats over 4 samples; each ± 0.35, 64 NFE, seed 5"
    assert found.mean() == pytest.approx((3.0, math.sqrt(10 / 3) / 2))
    one = MonteCarlo(value[3:], torch.tensor([0.8]), torch.tensor([3.0]), 64, 5)
    assert one.mean() == pytest.approx((5.0, 0.8))
    assert str(one) == "5 ± 0.8 nats over 1 sample; each ± 0.8, 64 NFE, seed 5"
    low, high = found.interval()
    torch.testing.assert_close((high - value) / found.standard_error, torch.full((4,), 3.182446))
    torch.testing.assert_close(value - low, high - value)
    assert str(Information.of(found)) == "3 ± 0.91 nats over 4 samples"
    assert str(Information.of(found, sign=-1.0)) == "-3 ± 0.91 nats over 4 samples"


def test_one_sample_does_not_tell_the_error_of_an_information() -> None:
    """Its draws show how well its own part is known, and not how far it is from the mean over the data."""
    model = mixture(VP(), dim=2)
    for found in (entropy(model, draws(model, 1)), mutual_information(model, draws(model, 1), 0.5)):
        assert math.isnan(found.standard_error)
        assert str(found) == f"{found.value:.5g} nats (one sample has no standard error) over 1 sample"


def test_dequantisation_noise_has_the_density_it_says() -> None:
    noise = Noise(0, (4000, 1), stream=FORWARD, dtype=torch.float64)
    u, log_q = uniform_noise(noise)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    assert bool((log_q == 0).all()) and float(u.min()) >= 0 and float(u.max()) < 1
    for std in (0.05, 0.4):
        u, log_q = truncated_normal_noise(noise, std)
        law = stats.truncnorm(-0.5 / std, 0.5 / std, loc=0.5, scale=std)
        assert stats.kstest(u.flatten().numpy(), law.cdf).pvalue > 1e-3
        torch.testing.assert_close(log_q, torch.from_numpy(law.logpdf(u.flatten().numpy())))
    with pytest.raises(ValueError, match="std"):
        truncated_normal_noise(noise, 0.0)


def test_uniform_noise_stays_inside_its_bin() -> None:
    """Also where a normal draw is so large that its distribution function is 1 in float32."""

    class Far:
        dtype = torch.float32

        def __call__(self) -> Tensor:
            return torch.tensor([[9.0], [-9.0], [0.0]])

    u, _ = uniform_noise(cast(Noise, Far()))
    assert bool((u >= 0).all()) and bool((u < 1).all()) and float(u[2]) == 0.5


def test_importance_bound_rises_to_the_mass_of_the_bin() -> None:
    """The masses of the bins of a normal density are known. The bound rises to them with the number of draws."""
    law = stats.norm(2.0, 0.6)
    levels = torch.arange(5).repeat_interleave(400).double().unsqueeze(1)
    expected = torch.from_numpy(law.cdf(levels + 1) - law.cdf(levels)).log().flatten()
    noise = Noise(0, tuple(levels.shape), stream=FORWARD, dtype=torch.float64)
    gaps, errors = [], []
    for k in (1, 4, 64):
        pairs = [truncated_normal_noise(noise, 0.3) for _ in range(k)]
        log_p = torch.stack([torch.from_numpy(law.logpdf(levels + u)).sum(1) for u, _ in pairs])
        bound, error = importance_bound(log_p, torch.stack([log_q for _, log_q in pairs]))
        gaps.append(float((bound - expected).mean()))
        errors.append(float((bound - expected).std()) / math.sqrt(len(levels)))
        if k == 64:
            assert 0.7 < float(((bound - expected) / error).std()) < 1.5
    assert gaps[0] < gaps[1] - 3 * errors[0] < gaps[2]
    assert gaps[2] <= 4 * errors[2]
    with pytest.raises(ValueError, match="log_q"):
        importance_bound(torch.zeros(2, 3), torch.zeros(3))
