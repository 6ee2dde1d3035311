"""The discrete chain: kernels, the Markovian identity, the way to the continuous bound."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

import backdrift.sde as processes
from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, Brownian
from backdrift.solvers import DDPM, Chain
from backdrift.solvers.density.chain import ChainBound
from backdrift.solvers.density.discrete_decoder import discretised

C = 1.7


def chains() -> list[Chain]:
    return [
        Chain(VP(), torch.linspace(0.02, 1, 12)),
        Chain(Brownian(), torch.logspace(-2, 3.3, 10)),
        Chain(VE(0.3, 30.0), torch.linspace(0, 1, 10)),  # sigma(0) = 0.3: its first state may be that at t = 0
        DDPM.linear(30, 1e-3, 0.4),
        DDPM.cosine(20),
    ]


def gaussian(chain: Chain, dim: int = 3) -> GaussianMixture:
    return GaussianMixture(torch.zeros(1, dim).double(), C, sde=chain.sde)


def test_ddpm_process_is_a_process() -> None:
    chain = DDPM.linear(12, 1e-2, 0.4)
    processes.check(chain.sde, points=17).raise_for_faults()
    torch.testing.assert_close(chain.alpha_bar, (1 - chain.betas).cumprod(0))
    torch.testing.assert_close(chain.alpha.square(), chain.alpha_bar)
    torch.testing.assert_close(chain.sigma.square(), 1 - chain.alpha_bar)


def test_kernels_are_those_of_ho_et_al() -> None:
    chain = DDPM.linear(50, 1e-3, 0.2)
    z, x = torch.tensor([[0.7]]).double(), torch.tensor([[-1.2]]).double()
    for i in (2, 17, 50):
        beta, bar, before = float(chain.betas[i - 1]), float(chain.alpha_bar[i - 1]), float(chain.alpha_bar[i - 2])
        mean, std = chain.forward(z, i)
        assert float(mean) == pytest.approx(math.sqrt(1 - beta) * 0.7)
        assert std == pytest.approx(math.sqrt(beta))
        mean, std = chain.posterior(z, x, i)
        expected = (math.sqrt(before) * beta * -1.2 + math.sqrt(1 - beta) * (1 - before) * 0.7) / (1 - bar)
        assert float(mean) == pytest.approx(expected)
        assert std == pytest.approx(math.sqrt((1 - before) / (1 - bar) * beta))
        assert float(chain.small[i - 1]) == pytest.approx(std**2)
        assert float(chain.large[i - 1]) == pytest.approx(beta)
    angle = [(i / 20 + 0.008) / 1.008 * math.pi / 2 for i in (0, 7)]
    assert float(DDPM.cosine(20).alpha_bar[6]) == pytest.approx((math.cos(angle[1]) / math.cos(angle[0])) ** 2)


@pytest.mark.parametrize("k", range(5))
def test_markovian_identity_on_a_gaussian(k: int) -> None:
    """H(y) = L_T + sum L_i + L_0 with the true reverse kernels, for every y, to rounding.

    The true kernel P(z_{i-1} | z_i) of normal data N(0, c) is normal with the denoiser's mean, but its
    variance is not beta~: it is beta~ + pull^2 Var[x | z_i]. With beta~ or beta the sum is larger at any
    finite step, as the bound says.
    """
    chain = chains()[k]
    alpha, sigma = chain.alpha, chain.sigma
    posterior = C * sigma.square() / (alpha.square() * C + sigma.square())
    exact = torch.cat([posterior[:1], chain.small[1:] + chain.pull.square() * posterior[1:]])
    model = gaussian(chain)
    x = model.sample(4, torch.Generator().manual_seed(0))
    # Every term is linear in |x|^2: at its mean, 3 c, a sample's bound is the data's.
    x = x * math.sqrt(3 * C) / x.norm(dim=1, keepdim=True)
    found = Chain(chain.sde, chain.times, exact).elbo(model, x, data_std=math.sqrt(C))

    # The last link: p(z_N) is the prior in the bound, and the true p_N in the identity.
    square = (alpha[-1] * x).square().sum(1) + 3 * sigma[-1].square()

    def log_normal(variance: torch.Tensor) -> torch.Tensor:
        return -0.5 * (square / variance + 3 * torch.log(2 * math.pi * variance))

    link = log_normal(sigma[-1].square()) - log_normal(alpha[-1].square() * C + sigma[-1].square())
    torch.testing.assert_close(found.total + link, -model.log_prob(x), atol=1e-10, rtol=0)
    torch.testing.assert_close(found.total, found.prior + found.steps.sum(0) + found.decoder)
    for name in ("small", "large"):
        other = Chain(chain.sde, chain.times, name).elbo(model, x, data_std=math.sqrt(C))
        assert float(other.total.mean()) > float(found.total.mean())


def test_optimal_variances_are_the_true_ones_on_a_gaussian() -> None:
    chain = chains()[0]
    posterior = C * chain.sigma.square() / (chain.alpha.square() * C + chain.sigma.square())
    exact = torch.cat([posterior[:1], chain.small[1:] + chain.pull.square() * posterior[1:]])
    model = gaussian(chain)
    found = chain.optimal_variances(model, model.sample(8000, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found, exact, rtol=0.03, atol=0)


@pytest.mark.parametrize("decoder", [{}, {"bin_size": 0.5, "low": -2.0, "high": 2.0}], ids=["normal", "discrete"])
@pytest.mark.parametrize("draws", [2, 5])
def test_the_standard_error_is_the_spread_over_the_draws(draws: int, decoder: dict[str, Any]) -> None:
    """4000 copies of one sample have draws of their own: the mean square of their stated errors is the sum's variance.

    Both are known to about 2%. The error is far from 1 nat, where an error and its square could be mistaken for each
    other.
    """
    chain = Chain(VP(), torch.linspace(0.05, 1, 6), "small")
    generator = torch.Generator().manual_seed(5)
    model = GaussianMixture(2 * torch.randn(3, 2, generator=generator).double(), 0.1, sde=chain.sde)
    x = torch.tensor([[0.5, -1.0]]).double().expand(4000, 2)
    found = chain.elbo(model, x, draws=draws, **decoder)
    spread = float(found.total.std())
    stated = float(found.standard_error.square().mean().sqrt())
    assert stated == pytest.approx(spread, rel=0.1)
    assert abs(math.log(spread)) > 0.7


def test_terms_are_the_divergences_they_name() -> None:
    """L_i against KL of torch.distributions between the chain's own kernels, at the same z_i."""
    chain = Chain(VP(), torch.linspace(0.05, 1, 6), "large")
    model = gaussian(chain, 1)
    x = torch.tensor([[0.9]]).double().expand(40_000, 1)
    found = chain.elbo(model, x)
    generator = torch.Generator().manual_seed(1)
    for i in (2, 6):
        mean, std = chain.marginal(x, i)
        z = mean + std * torch.randn(x.shape, generator=generator).double()
        q, p = (torch.distributions.Normal(*k) for k in (chain.posterior(z, x, i), chain.reverse(model, z, i)))
        kl = torch.distributions.kl_divergence(q, p).sum(1)
        error = math.hypot(float(kl.std()), float(found.steps[i - 2].std())) / math.sqrt(len(x))
        assert abs(float(kl.mean() - found.steps[i - 2].mean())) < 4 * error
    mean, std = chain.marginal(x[:1], 6)
    prior = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), torch.distributions.Normal(0, std))
    torch.testing.assert_close(found.prior[:1], prior.sum(1))


def test_the_bound_falls_to_the_density_as_steps_grow() -> None:
    sde = VP()
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(4, 4, generator=generator).double()
    model = GaussianMixture(means, 0.05 + 0.5 * torch.rand(4, 4, generator=generator).double(), sde=sde)
    x = model.sample(200, generator)
    first, last = sde.log_snr(torch.tensor([sde.eps, sde.T], dtype=torch.float64)).tolist()
    gaps, errors = [], []
    for n in (16, 32, 64, 128):
        times = sde.t_from_log_snr(torch.linspace(first, last, n, dtype=torch.float64)).clamp(max=sde.T)
        gap = Chain(sde, times).elbo(model, x).total + model.log_prob(x)
        gaps.append(float(gap.mean()))
        errors.append(float(gap.std()) / math.sqrt(len(x)))
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > -4 * errors[3]
    # First order in the step: halving it halves the gap, in the end.
    assert 1.6 < gaps[2] / gaps[3] < 2.4


def test_model_of_another_process_gives_the_same_bound() -> None:
    chain = DDPM.linear(20, 1e-3, 0.4)
    model = gaussian(chain)
    x = model.sample(3, torch.Generator().manual_seed(0))
    a, b = (chain.elbo(m, x) for m in (model, model.under(Brownian())))
    torch.testing.assert_close(a.total, b.total)
    torch.testing.assert_close(a.bits_per_dim(), a.total / (3 * math.log(2)))
    assert "\n" not in str(a)


def test_a_bound_tells_its_terms_and_the_error_of_the_mean() -> None:
    """Two samples of four components, whose bounds are 7 and 10 nats: 8.5 ± 1.5, and 8.5/(4 log 2) = 3.0657 bits."""
    bound = ChainBound(
        prior=torch.tensor([1.0, 2.0]),
        steps=torch.tensor([[1.0, 1.0], [2.0, 2.0]]),
        decoder=torch.tensor([3.0, 5.0]),
        standard_error=torch.tensor([0.25, 0.75]),
        degrees=torch.tensor([3.0, 3.0]),
        nfe=12,
        dim=4,
        seed=3,
    )
    assert str(bound) == (
        "-log p <= 8.5 ± 1.5 nats (3.0657 bits/dim) over 2 samples: L_T 1.5, L_1..N-1 3, L_0 4; "
        "each ± 0.5, 12 NFE, seed 3"
    )
    low, high = bound.interval()
    torch.testing.assert_close(low, -torch.tensor([7.0, 10.0]) - 3.182446 * bound.standard_error)
    torch.testing.assert_close(high, -torch.tensor([7.0, 10.0]) + 3.182446 * bound.standard_error)
    alone = replace(bound, **{name: getattr(bound, name)[..., :1] for name in ("prior", "steps", "decoder")})
    assert str(alone).startswith("-log p <= 7 ± 0.25 nats")


def test_discretised_decoder() -> None:
    levels = torch.linspace(-1, 1, 17, dtype=torch.float64).unsqueeze(1)
    for std in (1e-3, 0.05, 2.0):
        mass = discretised(levels, torch.full_like(levels, 0.31), std, 0.125, -1.0, 1.0).exp()
        assert float(mass.sum()) == pytest.approx(1.0, abs=1e-12)
        law = stats.norm(0.31, std)
        inner = torch.from_numpy(law.cdf(levels + 0.0625) - law.cdf(levels - 0.0625)).flatten()
        torch.testing.assert_close(mass[1:-1], inner[1:-1], atol=1e-12, rtol=1e-6)
    # Of a narrow law all bins but one have the tail beyond their nearer edge, down to e^-778136.
    far = discretised(levels, torch.full_like(levels, 0.31), 1e-3, 0.125, -1.0, 1.0)
    edge = (levels.flatten() - 0.31).abs() - 0.0625
    tail = torch.from_numpy(stats.norm(0, 1e-3).logsf(edge))
    torch.testing.assert_close(far[edge > 0], tail[edge > 0], rtol=1e-9, atol=0)
    assert float(far[edge <= 0]) == pytest.approx(float(stats.norm(0, 1e-3).logcdf(-edge.min())), rel=1e-9)
    chain = Chain(VP(), torch.linspace(0.02, 1, 5))
    model = gaussian(chain, 1)
    found = chain.elbo(model, levels, bin_size=0.125, low=-1.0, high=1.0)
    assert bool((found.decoder >= 0).all())  # a mass is at most 1


def test_simple_loss_is_that_of_the_noise() -> None:
    chain = DDPM.linear(20, 1e-3, 0.4)
    model = gaussian(chain)
    x, noise = torch.ones(2, 3).double(), torch.tensor([[1.0, -2.0, 0.5]]).double().expand(2, 3)
    i = torch.tensor([1, 20])
    z = chain.alpha[i - 1].reshape(-1, 1) * x + chain.sigma[i - 1].reshape(-1, 1) * noise
    expected = (noise - model.noise(z, chain.times[i - 1])).square().sum(1)
    torch.testing.assert_close(chain.simple_loss(model, x, i, noise), expected, rtol=1e-6, atol=0)


def simple_loss(i: Tensor, noise: Tensor | None = None) -> Tensor:
    chain, x = DDPM.linear(4), torch.zeros(1, 3).double()
    return chain.simple_loss(gaussian(chain), x, i, torch.zeros_like(x) if noise is None else noise)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Chain(VP(), [0.5, 0.2]), "times"),
        (lambda: Chain(VP(), [0.0, 0.2]), "times"),
        (lambda: Chain(VP(), [0.5, 1.2]), "times"),
        (lambda: Chain(VP(), [0.5], "tiny"), "variance"),  # type: ignore[arg-type]
        (lambda: Chain(VP(), [0.5], torch.tensor([-1.0])), "variance"),
        (lambda: DDPM([0.5, 1.0]), "times"),
        (lambda: DDPM([0.5, 1.1]), "betas"),
        (lambda: DDPM.linear(4).forward(torch.zeros(1, 1), 5), "i:"),
        (lambda: DDPM.linear(4).elbo(None, torch.zeros(1, 1), draws=1), "draws"),  # type: ignore[arg-type]
        (lambda: DDPM.linear(4).elbo(gaussian(DDPM.linear(4)), torch.zeros(1, 3), low=-1.0), "bin_size"),
        (lambda: simple_loss(torch.tensor([0])), "i: expected"),
        (lambda: simple_loss(torch.tensor([5])), "i: expected"),
        (lambda: simple_loss(torch.tensor([1, 2])), "i: expected"),
        (lambda: simple_loss(torch.tensor([1]), torch.zeros(1, 2)), "noise: expected"),
    ],
)
def test_bad_input_is_named(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
