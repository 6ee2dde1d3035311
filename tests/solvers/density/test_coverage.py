"""Intervals of every method hold the truth as often as they say, with nothing given that a user would not have.

The truth is that of closed forms: the density of the data at eps, or that of the model, which starts from its prior.
The wide table is made by `benchmarks/coverage.py`; here are a few of its cells.
"""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from backdrift.models import MLP, Denoiser, GaussianMixture
from backdrift.sde import VP, Brownian, CriticallyDamped, GaussianSDE, Rectified, Time
from backdrift.solvers import Chain, elbo, encode, log_likelihood, position_log_likelihood
from backdrift.solvers.density.monte_carlo import spread_degrees
from backdrift.solvers.model import prior_of

LEAST = 0.93
"""What a nominal 95% must hold."""


def mixture(sde: GaussianSDE, dim: int, shift: float = 0.0) -> GaussianMixture:
    """Four components with correlated covariances, whose mean is `shift` standard deviations from 0."""
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(4, dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    means = torch.randn(4, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture(means + shift, 0.3 * root @ root.mT + 0.02 * torch.eye(dim).double(), sde=sde)


def states(model: GaussianMixture, n: int) -> Tensor:
    """Draws of x_eps."""
    generator = torch.Generator().manual_seed(1)
    x = model.sample(n, generator)
    return model.sde.perturb(x, model.sde.eps, torch.randn(x.shape, generator=generator, dtype=x.dtype))


def model_density(model: GaussianMixture, x: Tensor) -> Tensor:
    """log p of the samples that start from the prior: log p_eps, with the prior in the place of p_T.

    The flow's end is that of a fine solve. The density depends on it through log prior - log p_T alone, which is small.
    """
    latent, prior = encode(model, x, steps=80).latent, prior_of(model)
    assert prior is not None
    return model.log_prob(x, model.sde.eps) + prior.log_prob(latent) - model.log_prob(latent, model.sde.T)


def least(trials: int) -> float:
    """Three binomial standard errors below `LEAST`. Trials of the same point count as independent: their draws are."""
    return LEAST - 3 * math.sqrt(LEAST * (1 - LEAST) / trials)


def held(interval: tuple[Tensor, Tensor], true: Tensor) -> float:
    return float(((interval[0] <= true) & (true <= interval[1])).double().mean())


@pytest.mark.parametrize(
    ("sde", "settings"),
    [
        (VP(), {}),
        (Rectified(), {}),
        (VP(), {"steps": 16}),
        (Rectified(), {"method": "score_corrected"}),
        (Brownian(), {"method": "adaptive"}),
    ],
    ids=["VP", "Rectified", "VP-16", "Rectified-score_corrected", "Brownian-adaptive"],
)
def test_the_solver_s_error_is_a_bound_of_the_right_size(sde: GaussianSDE, settings: dict[str, Any]) -> None:
    """Of the model's own density, with mean 3: at least 93% are held, by a bound of the size that is documented."""
    model = mixture(sde, 16, shift=3.0)
    x = states(model, 100)
    found = log_likelihood(model, x, probes="exact", **settings)
    off = (found.log_prob - model_density(model, x)).abs()
    assert float((off <= found.solver_error).double().mean()) >= least(100)
    low, high = found.interval(density="model")  # with nothing random, the bound alone
    torch.testing.assert_close((high - low) / 2, found.solver_error, rtol=1e-6, atol=1e-9)
    stated = 3 if settings.get("method") == "score_corrected" else 2  # times the error, see `path_integral.FINER`
    assert float(found.solver_error.mean()) <= 1.5 * stated * float(off.mean())


@pytest.mark.parametrize(
    "settings", [{}, {"steps": 8}, {"method": "adaptive"}], ids=lambda case: "-".join(map(str, case.values()))
)
def test_random_probes_hold_the_density_of_the_data(settings: dict[str, Any]) -> None:
    """By default, in 16 dimensions and with mean 3: 20 points, each with 10 seeds of its probes."""
    model = mixture(VP(), 16, shift=3.0)
    x = states(model, 20)
    found = log_likelihood(model, x.repeat(10, 1), **settings)
    assert found.probes != "exact" and not bool(found.standard_error.isnan().any())
    true = model.log_prob(x, model.sde.eps).repeat(10)
    assert held(found.interval(), true) >= least(200)
    width = found.interval()[1] - found.log_prob
    assert float(width.mean()) <= 3 * float((found.log_prob - true).abs().quantile(0.95))


@pytest.mark.parametrize("sde", [VP(), Brownian()], ids=lambda sde: type(sde).__name__)
def test_bounds_hold_their_value(sde: GaussianSDE) -> None:
    """The bound of an exact score is the log-density, but for the prior, which is far smaller than the error here."""
    model = mixture(sde, 2)
    x = states(model, 100)
    found = elbo(model, x.repeat(20, 1))
    assert held(found.interval(), model.log_prob(x, sde.eps).repeat(20)) >= least(2000)
    assert found.nfe == 128


@pytest.mark.parametrize("steps", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_chains_hold_their_bound(steps: int) -> None:
    """The bound itself is known from a hundred other seeds, to a tenth of the error."""
    sde = VP()
    model = mixture(sde, 2)
    x = model.sample(12, torch.Generator().manual_seed(0))
    first, last = sde.log_snr(torch.tensor([sde.eps, sde.T], dtype=torch.float64)).tolist()
    times = sde.t_from_log_snr(torch.linspace(first, last, steps, dtype=torch.float64)).clamp(max=sde.T)
    chain = Chain(sde, times)
    found = chain.elbo(model, x.repeat(20, 1))
    true = chain.elbo(model, x.repeat(100, 1), seed=1).log_prob.reshape(100, 12).mean(0)
    assert held(found.interval(), true.repeat(20)) >= least(240)


def test_degrees_of_freedom_are_those_of_their_sum() -> None:
    """The degrees 2 E[V]^2/Var(V) are known from many sums V: 48 for normal draws, and far fewer for heavy tails.

    What one sum tells of them is meant to be fewer, but not less than half for normal draws.
    """
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(16, 4, 20_000, generator=generator, dtype=torch.float64)
    heavy = normal.pow(3)
    medians = {}
    for name, draws in (("normal", normal), ("heavy", heavy)):
        variances = draws.var(1)
        total = variances.sum(0)
        true = float(2 * total.mean().square() / total.var())
        medians[name] = float(spread_degrees(variances, 4).median())
        assert medians[name] < true if name == "normal" else true < 16
    assert medians["normal"] > 24 > 12 > medians["heavy"]
    # One term that makes up the whole sum is known with the degrees of its own draws, and no more.
    alone = torch.zeros(16, 1, dtype=torch.float64).index_fill(0, torch.tensor([3]), 1.0)
    pair = alone + alone.roll(1, 0)
    assert float(spread_degrees(alone, 2)) == 1 and float(spread_degrees(pair, 2)) <= 2
    uneven = torch.tensor([[1.0], [0.0], [1.0], [0.0]], dtype=torch.float64)  # V = 2, Var(V) = 2
    assert float(spread_degrees(uneven, 5)) == pytest.approx(2 * 4 / 2 - 2)
    equal = torch.ones(16, 3, dtype=torch.float64)
    assert spread_degrees(equal, 4).tolist() == [48.0] * 3
    assert spread_degrees(0 * equal, 4).tolist() == [math.inf] * 3
    assert spread_degrees(equal[:1], 4).tolist() == [3.0] * 3


class NormalData:
    """The exact score of critically damped states for data N(3, 1)."""

    exact = True

    def __init__(self) -> None:
        self.sde = CriticallyDamped()
        self.start = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)

    def at(self, t: Time) -> tuple[Tensor, Tensor]:
        phi, _ = self.sde.moments(0.0, t)
        return 3.0 * phi[:, 0], phi @ self.start @ phi.mT + self.sde.covariance_at(t)

    def score(self, x: Tensor, t: Time) -> Tensor:
        mean, covariance = self.at(t)
        return -torch.linalg.solve(covariance, x.flatten(2) - mean[:, None]).reshape(x.shape)


def test_positions_hold_their_density() -> None:
    """Eight draws of the velocity, by default."""
    model = NormalData()
    mean, covariance = model.at(model.sde.eps)
    std = float(covariance[0, 0].sqrt())
    x = float(mean[0]) + std * torch.randn(40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = position_log_likelihood(model, x.repeat(5, 1))
    assert found.degrees.tolist() == [7.0] * 200
    true = torch.distributions.Normal(float(mean[0]), std).log_prob(x[:, 0]).repeat(5)
    assert held(found.interval(), true) >= least(200)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_compiled_network_has_an_exact_divergence(backend: str) -> None:
    """It is that of the network as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(3, 16, depth=1).double().eval()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, compiled = (
        log_likelihood(Denoiser(net, VP(), data_std=1.0).eval(), x, probes="exact", steps=2)
        for net in (network, cast(torch.nn.Module, torch.compile(network, backend=backend)))
    )
    torch.testing.assert_close(compiled.log_prob, plain.log_prob, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(compiled.solver_error, plain.solver_error, rtol=1e-6, atol=1e-9)
