"""Twisted sequential Monte Carlo: unbiased for the evidence of its chain, and exact in the limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import MLP, MMPS, Denoiser, GaussianMixture, Measurement, Projection
from backdrift.sde import VP
from backdrift.sde.twist import Joint, Twist
from backdrift.solvers.confidence import student
from backdrift.solvers.stochastic.particle_steps import kernel_variances
from backdrift.solvers.stochastic.particles import particles
from backdrift.solvers.tables.grid import time_grid

VARIANCE, NOISE = 0.7, 0.3


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal_data() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[0.4]]).double(), VARIANCE, sde=VP())


def seen(values: Tensor, rows: Tensor) -> Measurement:
    return Measurement(Projection(rows), values, std=NOISE)


def evidence_of_chain(values: Tensor, steps: int) -> Tensor:
    """log p(y) of the chain of ancestral steps with the last link N(D, V), for N(0.4, VARIANCE) data, in closed form.

    All links are normal with means linear in the state, so that mean and variance follow link by link.
    """
    model = normal_data()
    sde = model.sde
    times = time_grid("karras", sde, steps, sde.eps, model.data_std)
    alpha, sigma = sde.alpha(times), sde.sigma(times)

    def denoiser(k: int) -> tuple[float, float]:
        gain = float(alpha[k] * VARIANCE / (alpha[k] ** 2 * VARIANCE + sigma[k] ** 2))
        return gain, 0.4 - gain * float(alpha[k]) * 0.4

    mean, variance = 0.4 * float(alpha[0]), float(alpha[0] ** 2 * VARIANCE + sigma[0] ** 2)
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    added = kernel_variances(model, (1,), times)
    for k in range(steps):
        carry = sde.bridge(one, zero, times[k + 1], times[k])[0]
        pull = float(sde.bridge(zero, one, times[k + 1], times[k])[0])
        gain, offset = denoiser(k)
        slope = float(carry) + pull * gain
        mean, variance = slope * mean + pull * offset, slope**2 * variance + float(added[k])
    gain, offset = denoiser(steps)
    v = float(sigma[-1] ** 2 / alpha[-1]) * gain
    return torch.distributions.Normal(gain * mean + offset, math.sqrt(gain**2 * variance + v + NOISE**2)).log_prob(
        values
    )


def test_the_evidence_is_that_of_the_chain() -> None:
    """Twelve coarse steps, for which the chain's evidence is 0.08 nats from that of the data. 4.5 standard errors."""
    values = torch.tensor([-1.0, 0.3, 2.5], dtype=torch.float64)
    expected = evidence_of_chain(values, 12)
    truth = normal_data().log_evidence(seen(values[:, None], torch.ones(1, 1).double()))
    guide = MMPS(normal_data(), seen(values[:, None], torch.ones(1, 1).double()), iterations=None)
    found = particles(guide, (1,), observations=3, particles=256, runs=24, steps=12, seed=2)
    error = 4.5 * found.standard_error
    assert float(error.max()) < 0.05 and float((expected - truth).abs().max()) > 0.07
    assert bool(((found.log_evidence - expected).abs() < error).all())


def test_the_discretisation_is_the_change_from_half_the_steps() -> None:
    """Chains of 6 and 12 steps of the same particles, which differ by 0.1 nats and more."""
    values = torch.tensor([-1.0, 2.5], dtype=torch.float64)
    guide = MMPS(normal_data(), seen(values[:, None], torch.ones(1, 1).double()), iterations=None)
    found, halved = (
        particles(guide, (1,), observations=2, steps=n, seed=2, measure_discretisation=n == 12) for n in (12, 6)
    )
    assert float(found.discretisation.abs().min()) > 0.1
    torch.testing.assert_close(found.discretisation, found.log_evidence - halved.log_evidence)
    low, high = found.interval()
    width = student(0.95, torch.full((2,), 7.0)) * found.standard_error + found.discretisation.abs()
    torch.testing.assert_close(high - found.log_evidence, width)
    torch.testing.assert_close(found.log_evidence - low, width)
    assert found.nfe == 13 + 7 and bool(halved.discretisation.isnan().all())


def test_one_step_has_no_half() -> None:
    values = torch.tensor([[1.0]], dtype=torch.float64)
    guide = MMPS(normal_data(), seen(values, torch.ones(1, 1).double()), iterations=None)
    with pytest.raises(ValueError, match="steps: expected an integer of at least 2, got 1"):
        particles(guide, (1,), steps=1, measure_discretisation=True)


def test_kernel_variances_are_exact_for_isotropic_normal_data() -> None:
    """For N(m, c I), x_s given x_t has the variance sigma_{s|t}^2 + b^2 V with V = c sigma^2/(alpha^2 c + sigma^2).

    The squared score of 256 states in 400 dimensions is known to 0.5%; V to that share of 1/(1 - sigma^2 |s|^2/d).
    """
    sde = VP()
    model = GaussianMixture(torch.full((1, 400), 0.4).double(), VARIANCE, sde=sde)
    times = time_grid("karras", sde, 16, sde.eps, model.data_std)
    found = kernel_variances(model, (400,), times)
    one, zero = torch.ones(16, 1).double(), torch.zeros(16, 1).double()
    b, std = sde.bridge(zero, one, times[1:], times[:-1])
    alpha2, sigma2 = sde.alpha(times[:-1]).square(), sde.sigma(times[:-1]).square()
    posterior = VARIANCE * sigma2 / (alpha2 * VARIANCE + sigma2)
    expected = std.flatten().square() + b.flatten().square() * posterior
    torch.testing.assert_close(found[4:], expected[4:], rtol=0.05, atol=0)
    # The first steps, at noise far above the data, tell c from the difference of two numbers near 1.
    assert bool((found >= std.flatten().square() * (1 - 1e-9)).all())


class Biased:
    """A guide that is wrong: its denoiser is off and its twist too wide. Weights must make up for it."""

    def __init__(self, guide: MMPS) -> None:
        self.guide, self.sde, self.model, self.data_moments = guide, guide.sde, guide.model, guide.data_moments

    def select(self, indices: Tensor) -> Biased:
        return Biased(self.guide.select(indices))

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return self.guide.denoise(x, t)

    def twist(self, x: Tensor, t: Tensor) -> Twist:
        right = self.guide.twist(x, t)
        if float(t) <= self.sde.eps * 1.0001:  # the target itself is right
            return Twist(*right)
        return Twist(right.denoised, right.denoised + 0.3 * (right.guided - right.denoised), 0.3 * right.log_twist)


def test_a_wrong_guide_costs_variance_and_no_bias() -> None:
    values = torch.tensor([1.4], dtype=torch.float64)
    guide = Biased(MMPS(normal_data(), seen(values[:, None], torch.ones(1, 1).double()), iterations=None))
    found = particles(guide, (1,), particles=512, runs=24, steps=12, seed=5)
    right = particles(guide.guide, (1,), particles=512, runs=24, steps=12, seed=5)
    assert float(found.effective_sample_size) < 0.7 * float(right.effective_sample_size)
    expected = evidence_of_chain(values, 12)
    assert float((found.log_evidence - expected).abs()) < 4.5 * float(found.standard_error) < 0.1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_moves_leave_the_evidence_unbiased(seed: int) -> None:
    """With a wrong guide, few particles and resampling at every step. 4.5 standard errors of 64 runs.

    A test that accepted every move would lose the guide's correction, which is several standard errors here.
    """
    values = torch.tensor([1.4], dtype=torch.float64)
    guide = Biased(MMPS(normal_data(), seen(values[:, None], torch.ones(1, 1).double()), iterations=None))
    found = particles(guide, (1,), particles=64, runs=64, steps=12, threshold=1.0, moves=2, seed=seed)
    expected = evidence_of_chain(values, 12)
    assert float((found.log_evidence - expected).abs()) < 4.5 * float(found.standard_error) < 0.2
    assert found.nfe == 13 + 2 * 12


def test_moves_make_the_samples_of_a_wrong_guide_right() -> None:
    """Particles that a wrong guide proposes and moves rejuvenate: mean and variance of the posterior of normal data.

    1500 draws of 12 runs with 512 particles; the weights allow 1/sqrt(effective sample size).
    """
    values = torch.tensor([1.4], dtype=torch.float64)
    measurement = seen(values[:, None], torch.ones(1, 1).double())
    guide = Biased(MMPS(normal_data(), measurement, iterations=None))
    found = particles(guide, (1,), particles=512, runs=12, steps=40, moves=1)
    exact = normal_data().given(measurement).data_moments
    weights = found.log_weights.exp().unsqueeze(2)
    mean = (weights * found.x).sum(1)
    error = float((exact.variance / found.effective_sample_size).sqrt().max())
    assert float((mean - exact.mean).abs().max()) < 4.5 * error + 0.02
    spread = (weights * (found.x - mean.unsqueeze(1)).square()).sum(1)
    assert (
        float((spread / exact.variance - 1).abs().max()) < 4.5 * (2 / float(found.effective_sample_size)) ** 0.5 + 0.05
    )


def mixture_problem(n: int) -> tuple[GaussianMixture, Measurement]:
    means = 1.5 * torch.tensor([[i, j] for i in (-1.0, 0.0, 1.0) for j in (-1.0, 0.0, 1.0)]).double()
    mixture = GaussianMixture(means, 0.05, sde=VP())
    rows = torch.tensor([[0.8, 0.6]]).double()
    x = mixture.sample(n, torch.Generator().manual_seed(4))
    return mixture, seen(x @ rows.mT + NOISE * draws(n, 1, seed=9), rows)


def test_samples_and_evidence_of_a_mixture() -> None:
    """Nine modes, a posterior of several: weighted moments and the evidence, with the chain's steps told apart."""
    mixture, measurement = mixture_problem(2)
    guide = MMPS(mixture, measurement, iterations=None)
    found = particles(guide, (2,), observations=2, particles=400, steps=120, measure_discretisation=True)
    truth = mixture.log_evidence(measurement)
    low, high = found.interval(0.999)
    assert bool(((low <= truth) & (truth <= high)).all())
    posterior = mixture.given(measurement)
    weights = found.log_weights.exp().unsqueeze(2)
    mean = (weights * found.x).sum(1)
    std = posterior.data_moments.variance.sqrt()
    error = 4.5 * std / found.effective_sample_size.sqrt().unsqueeze(1) + 0.03
    assert bool(((mean - posterior.data_moments.mean).abs() < error).all())
    assert bool((found.effective_sample_size > 400).all())
    drawn = found.draw(500)
    assert drawn.shape == (2, 500, 2)
    assert bool(((drawn.mean(1) - mean).abs() < 4.5 * std / 500**0.5).all())


def correlated(n: int) -> tuple[GaussianMixture, Measurement]:
    """Normal data with correlated components, and two correlated measurements of each sample."""
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.4, 0.0], [-0.5, 0.3, 0.7]]).double()
    model = GaussianMixture(torch.tensor([[0.4, -1.0, 0.2]]).double(), (root @ root.mT).unsqueeze(0), sde=VP())
    rows = torch.tensor([[0.8, 0.6, 0.0], [0.3, 0.0, -1.0]]).double()
    x = model.sample(n, torch.Generator().manual_seed(4))
    return model, seen(x @ rows.mT + NOISE * draws(n, 2, seed=9), rows)


def test_the_full_kernel_is_exact_for_normal_data() -> None:
    """Five steps, any covariance: the weights do not change on the way. What is left is x_T. Its twist varies by about
    alpha_T |A^T M^-1 (y - A m)| = 0.0066 * 2 over the particles, which takes a share of 2e-4 of their effective number;
    and it is drawn without the correlations of the data, which count for alpha_T^2 = 4e-5."""
    model, measurement = correlated(3)
    guide = MMPS(model, measurement, iterations=None)
    found = particles(guide, (3,), observations=3, particles=500, steps=5, kernel="full")
    assert bool((found.effective_sample_size > 0.9995 * 4000).all())
    truth = model.log_evidence(measurement)
    assert float((found.log_evidence - truth).abs().max()) < 2e-3
    posterior = model.given(measurement).data_moments
    error = 4.5 * (posterior.variance / 4000).sqrt()
    assert bool(((found.x.mean(1) - posterior.mean).abs() < error).all())
    spread = found.x.var(1) / posterior.variance - 1
    assert float(spread.abs().max()) < 4.5 * math.sqrt(2 / 4000) + 0.01  # the last state's mean stands for a draw


class WrongSight(Biased):
    """A guide that mistakes its measurement on the way, and not the data."""

    def select(self, indices: Tensor) -> WrongSight:
        return WrongSight(self.guide.select(indices))

    def joint(self, x: Tensor, t: Tensor) -> Joint:
        right = self.guide.joint(x, t)
        if float(t) <= self.sde.eps * 1.0001:
            return right
        return right._replace(residual=right.residual + 0.15, total=1.4 * right.total)


@pytest.mark.parametrize("moves", [0, 1])
def test_a_wrong_measurement_on_the_way_costs_variance_and_no_bias(moves: int) -> None:
    model, measurement = correlated(1)
    guide = WrongSight(MMPS(model, measurement, iterations=None))
    found = particles(guide, (3,), particles=500, runs=24, steps=8, seed=5, kernel="full", moves=moves)
    assert float(found.effective_sample_size) < 0.95 * 12000
    error = (found.log_evidence - model.log_evidence(measurement)).abs()
    assert float(error) < 4.5 * float(found.standard_error) + 2e-3 < 0.1


def test_an_observation_is_the_same_alone() -> None:
    mixture, measurement = mixture_problem(3)
    guide = MMPS(mixture, measurement, iterations=None)
    whole = particles(guide, (2,), observations=3, particles=32, runs=4, steps=10, moves=1)
    alone = particles(guide.select(torch.tensor([2])), (2,), particles=32, runs=4, steps=10, moves=1, first=2)
    torch.testing.assert_close(alone.x[0], whole.x[2], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alone.log_evidence[0], whole.log_evidence[2], rtol=1e-9, atol=1e-9)


def test_what_is_wrong_is_named() -> None:
    mixture, measurement = mixture_problem(1)
    guide = MMPS(mixture, measurement, iterations=None)
    with pytest.raises(TypeError, match=r"^guide: expected a model with twist"):
        particles(mixture, (2,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^runs: expected"):
        particles(guide, (2,), runs=1)
    with pytest.raises(ValueError, match=r"^kernel: expected one of isotropic, low_rank, full, got 'round'$"):
        particles(guide, (2,), kernel="round")
    with pytest.raises(TypeError, match=r"^guide: kernel='full' expects a model with joint"):
        particles(Biased(guide), (2,), kernel="full")
    with pytest.raises(TypeError, match=r"^guide: kernel='low_rank' expects a model with low_rank"):
        particles(Biased(guide), (2,), kernel="low_rank", rank=1)
    with pytest.raises(
        ValueError, match=r"^rank: expected fewer than the 2 components of a sample, got 2; kernel='full'"
    ):
        particles(guide, (2,), kernel="low_rank", rank=2)
    exact = MMPS(mixture, Measurement(Projection(torch.ones(1, 2).double()), torch.zeros(1).double(), std=0))
    with pytest.raises(ValueError, match=r"^std: expected positive noise"):
        particles(exact, (2,), kernel="low_rank", rank=1)
    with pytest.raises(ValueError, match=r"^moves: expected"):
        particles(guide, (2,), moves=-1)
    with pytest.raises(ValueError, match=r"^threshold: expected"):
        particles(guide, (2,), threshold=2.0)
    training = Denoiser(MLP(2, 8, 1, dropout=0.5), VP()).train()
    with pytest.raises(ValueError, match=r"^model: expected evaluation mode"):
        particles(MMPS(training, measurement, iterations=None), (2,))


def test_no_measurement_is_left_out() -> None:
    """A guide of three measurements beside another number of observations. One measurement answers any number."""
    mixture, measurement = mixture_problem(3)
    guide = MMPS(mixture, measurement, iterations=None)
    settings: dict[str, Any] = {"particles": 4, "runs": 2, "steps": 2}
    for observations in (1, 2, 4):
        with pytest.raises(ValueError, match=rf"^observations: expected 3, as many as .* got {observations}$"):
            particles(guide, (2,), observations=observations, **settings)
    one = guide.select(torch.tensor([1]))
    assert len(particles(one, (2,), observations=2, **settings).log_evidence) == 2
    shape: Any
    for shape in ((3,), (1, 2), 2, (2.0,)):
        with pytest.raises(ValueError, match=r"^shape: expected"):
            particles(one, shape, **settings)


@pytest.mark.parametrize("kernel", ["isotropic", "low_rank", "full"])
def test_chunks_change_nothing_and_bound_what_the_guide_is_asked_at_once(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two observations with measurements of their own; 7 does not divide the 64 particles."""
    model = GaussianMixture(draws(3, 4), 0.3, sde=VP())
    guide = MMPS(model, seen(draws(2, 2, seed=1), draws(2, 4, seed=2)), iterations=None)
    settings: Any = {"observations": 2, "particles": 16, "runs": 2, "steps": 6, "threshold": 0.9}
    settings |= {"kernel": kernel, "rank": 2}
    whole = particles(guide, (4,), **settings)
    sizes: list[int] = []
    asked = {"isotropic": "twist", "low_rank": "low_rank", "full": "joint"}[kernel]
    plain = getattr(MMPS, asked)

    def counted(self: MMPS, x: Tensor, *others: Tensor) -> Any:
        sizes.append(len(x))
        return plain(self, x, *others)

    monkeypatch.setattr(MMPS, asked, counted)
    parts = particles(guide, (4,), chunk=7, **settings)
    assert max(sizes) == 7
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parts.log_evidence, whole.log_evidence, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"^chunk: "):
        particles(guide, (4,), chunk=0, **settings)


def test_each_observation_may_have_a_prior_of_its_own() -> None:
    """Two classes of other means, one for each observation, under the isotropic kernel.

    The evidence of each is that of its own class, within 4.5 standard errors and the error of 40 steps, which by
    `evidence_of_chain` is below 0.03 nats. An observation alone gives the same particles as in a batch.
    """
    means, label = torch.tensor([[-2.0], [3.0]]).double(), torch.tensor([1, 0])
    model = GaussianMixture(means, VARIANCE, sde=VP()).given(label)
    values, rows = torch.tensor([[2.5], [-1.0]]).double(), torch.ones(1, 1).double()
    guide = MMPS(model, seen(values, rows), iterations=None)
    settings: dict[str, Any] = {"particles": 64, "runs": 8, "steps": 40, "seed": 3}
    found = particles(guide, (1,), observations=2, **settings)
    total = VARIANCE + NOISE**2
    exact = -0.5 * ((values - means[label]).square()[:, 0] / total + math.log(2 * math.pi * total))
    assert bool(((found.log_evidence - exact).abs() < 4.5 * found.standard_error + 0.03).all())
    alone = MMPS(model.select(torch.tensor([1])), seen(values[1:], rows), iterations=None)
    same = particles(alone, (1,), observations=1, first=1, **settings)
    torch.testing.assert_close(same.x, found.x[1:], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(same.log_evidence, found.log_evidence[1:], rtol=1e-9, atol=1e-9)
