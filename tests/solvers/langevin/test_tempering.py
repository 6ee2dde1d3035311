"""Parallel tempering: its ladder of temperatures, and what chains at several temperatures converge to."""

import itertools
import math

import pytest
import torch
from chain_laws import known
from scipy import stats
from torch import Tensor

from backdrift.models.targets import Mixture
from backdrift.solvers import MALA, ParallelTempering, mcmc
from backdrift.solvers.langevin.sampler import State
from backdrift.solvers.langevin.tempering import geometric

F64 = torch.float64


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Points that a test draws without a generator are the same in every run."""
    torch.manual_seed(0)


def test_tempering_weighs_modes_that_one_chain_never_sees_together() -> None:
    target = Mixture(10.0)
    x0 = torch.randn(120, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x0[:, 0] += 10  # all in the mode of weight 0.1
    stuck = mcmc(target, MALA(), x0, 100, warmup=200)
    assert float((stuck.draws[..., 0] > 4).double().mean()) > 0.98
    chains = mcmc(target, ParallelTempering(temperatures=geometric(50.0, 6)), x0, 500, warmup=400)
    exchange = known(chains.exchange)
    assert exchange.shape == (120, 5) and float(exchange.mean(0).min()) > 0.2
    nearest = torch.cdist(chains.draws.reshape(-1, 2), target.density.means).argmin(1).reshape(120, -1)
    for mode, weight in enumerate((0.1, 0.2, 0.3, 0.4)):
        share = (nearest == mode).double().mean(1)
        assert abs(float(share.mean()) - weight) < 4 * float(share.std()) / 120**0.5, mode


@pytest.mark.parametrize(("hottest", "replicas"), [(50.0, 6), (16.0, 2), (3.0, 9)])
def test_the_ladder_rises_from_1_to_the_hottest_by_one_factor(hottest: float, replicas: int) -> None:
    ladder = geometric(hottest, replicas)
    assert len(ladder) == replicas and ladder[0] == 1 and ladder[-1] == pytest.approx(hottest, rel=1e-12)
    factor = hottest ** (1 / (replicas - 1))
    assert [b / a for a, b in itertools.pairwise(ladder)] == pytest.approx([factor] * (replicas - 1))
    for bad in ((1.0, 4), (0.5, 4), (math.inf, 4), (4.0, 1), (4.0, 2.5)):
        with pytest.raises(ValueError, match=r"^(hottest|replicas): "):
            geometric(*bad)


class Shifted:
    """N(m, I) with a mean for each chain."""

    def __init__(self, means: Tensor) -> None:
        self.means = means

    def select(self, indices: Tensor) -> "Shifted":
        return Shifted(self.means[indices])

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x - self.means).square().sum(-1)

    def score(self, x: Tensor) -> Tensor:
        return self.means - x


def test_replicas_of_a_chain_have_what_its_target_holds_for_it() -> None:
    means = torch.tensor([[-8.0], [0.0], [5.0], [20.0]], dtype=F64)
    sampler = ParallelTempering(temperatures=(1.0, 2.0, 4.0))
    chains = mcmc(Shifted(means), sampler, means.clone(), 1500, warmup=200, seed=1)
    error = chains.draws.std(1) / (chains.draws.shape[1] / 4) ** 0.5  # at least one draw in four is worth a new one
    assert ((chains.draws.mean(1) - means).abs() < 4.5 * error).all()
    assert float((chains.draws.var(1) - 1).abs().max()) < 0.25
    alone = mcmc(Shifted(means[2:3]), sampler, means[2:3].clone(), 20, warmup=20, seed=1, first=2)
    among = mcmc(Shifted(means), sampler, means.clone(), 20, warmup=20, seed=1)
    torch.testing.assert_close(alone.draws, among.draws[2:3], rtol=1e-9, atol=1e-9)


def test_exchange_keeps_every_temperature() -> None:
    # Exact draws of N(0, tau) at each temperature stay so: 20 000 ladders, one exchange of each parity.
    n, taus = 20000, (1.0, 2.0, 3.5)
    sampler = ParallelTempering(temperatures=taus)
    generator = torch.Generator().manual_seed(0)
    tau = torch.tensor(taus, dtype=F64).repeat(n)
    x = tau.sqrt().unsqueeze(1) * torch.randn(3 * n, 1, generator=generator, dtype=F64)
    state = State(x, -x / tau.unsqueeze(1), -0.5 * x.square().squeeze(1) / tau)
    for turn in (0, 1):
        state, rate = sampler.exchange(state, torch.randn(3 * n, generator=generator, dtype=F64), turn)
        assert 0.3 < float(rate[:, turn].mean()) < 0.95 and rate[:, 1 - turn].isnan().all()
    assert (state.x != x).any(1).double().mean() > 0.3
    for k, value in enumerate(taus):
        assert stats.kstest(state.x[k::3, 0].numpy() / value**0.5, "norm").pvalue > 1e-3
    # Scores and log-densities are those of the new place at its new temperature.
    torch.testing.assert_close(state.score, -state.x / tau.unsqueeze(1))
    torch.testing.assert_close(state.log_prob, -0.5 * state.x.square().squeeze(1) / tau)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_tempering_agrees_on_the_mixture_of_the_command(seed: int) -> None:
    target = Mixture(3.0)
    sampler = ParallelTempering(temperatures=(1.0, 2.0, 4.0, 8.0, 16.0))
    chains = mcmc(target, sampler, target.start(8, seed), 4000, warmup=1000, whitening="dense", seed=seed)
    assert float(chains.rhat().max()) < 1.01
    for of in ("mean", "sd"):
        z = (getattr(chains, of)() - getattr(target, of)) / chains.standard_error(of)
        assert float(z.abs().max()) < 4, (of, z)
