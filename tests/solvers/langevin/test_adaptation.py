"""What the warm-up of a chain adapts: step sizes and whitening."""

import math
from typing import Any

import pytest
import torch
from chain_laws import correlation_of_ends, known

from backdrift.models import LogDensity
from backdrift.models.targets import IllConditionedGaussian
from backdrift.solvers import BAOAB, MALA, MALT, ULA, AdjustedBAOAB, mcmc
from backdrift.solvers.langevin.adaptation import DualAveraging
from backdrift.solvers.langevin.sampler import Sampler
from backdrift.solvers.langevin.whitening import Moments, windows

F64 = torch.float64


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Points that a test draws without a generator are the same in every run."""
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("sampler", "power"),
    [(ULA(), 3), (MALA(), 3), (BAOAB(), 4), (AdjustedBAOAB(), 4)],
    ids=lambda value: str(value)[:5],
)
def test_first_steps_shrink_as_the_dimension_grows(sampler: Sampler, power: int) -> None:
    """As d^(-1/3) without momentum (Roberts & Rosenthal 1998) and as d^(-1/4) with it.

    In one dimension all are below 2, where the step of a standard normal target becomes unstable.
    """
    assert sampler.first_step(7) / sampler.first_step(7 * 2**power) == pytest.approx(2)
    assert 0.1 < sampler.first_step(1) < 2


@pytest.mark.parametrize("d", [10, 300])
def test_malt_begins_with_the_step_that_a_unit_gaussian_accepts_as_it_should(d: int) -> None:
    # r has the standard deviation h^2/4 sqrt(d (1 - rho^2)) = 0.504 sqrt(1 - rho^2), rho the correlation that
    # a trajectory leaves; where it is normal, in many dimensions, the mean acceptance is 2 Phi(-sd/2).
    n = 4000
    x0 = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=F64)
    unit = LogDensity(lambda x: -0.5 * x.square().sum(-1), lambda x: -x)
    h, steps = MALT().first_step(d), MALT().evaluations(d)
    chains = mcmc(unit, MALT(step=h, steps=steps), x0, 1)
    rho = correlation_of_ends(steps * h, MALT().friction)
    exact = math.erfc(h**2 * (d * (1 - rho**2)) ** 0.5 / 8 / 2**0.5)
    rate = chains.acceptance
    assert abs(float(rate.mean()) - exact) < 4 * float(rate.std()) / n**0.5 + 0.01, (rate.mean(), exact)
    assert exact == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("rate", [0.4, 0.8])
def test_step_adapts_to_the_acceptance_asked_for(rate: float) -> None:
    target = IllConditionedGaussian(10, 1.0)
    chains = mcmc(target, MALA(target_acceptance_rate=rate), target.start(32), 400, warmup=1500)
    # One chain's adapted step is itself random; the mean over 32 is tight.
    assert float(chains.acceptance.mean()) == pytest.approx(rate, abs=0.03)
    assert float(chains.acceptance.std()) < 0.06


def test_unadjusted_step_adapts_to_the_bias_asked_for() -> None:
    bias = 0.03
    # ULA on an isotropic Gaussian: E[r^2]/d = 4 b^3 at a relative bias b of the variance.
    target = LogDensity(lambda x: -0.5 * (x / 3).square().sum(-1))
    chains = mcmc(target, ULA(target_energy_error=4 * bias**3), torch.randn(32, 8, dtype=F64), 800, warmup=1200)
    wanted = 2 * 9 * bias
    assert float(chains.step.mean()) == pytest.approx(wanted, rel=0.1)
    square = chains.draws.square().mean((1, 2))
    exact = 9 / (1 - float(chains.step.mean()) / 18)
    assert abs(float(square.mean()) - exact) < 4 * float(square.std()) / 32**0.5


def test_dual_averaging_finds_the_root_of_a_noisy_signal() -> None:
    torch.manual_seed(0)
    tuning = DualAveraging(torch.full((200, 1), 0.01, dtype=F64))
    for _ in range(2000):
        tuning(0.5 * (2.0 - tuning.step.squeeze(1)).clamp(-1, 1) + 0.2 * torch.randn(200, dtype=F64))
    assert float(tuning.average.log().mean()) == pytest.approx(math.log(2.0), abs=0.05)


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_whitening_from_scores_is_the_covariance_of_a_gaussian_however_short_the_chain(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator, dtype=F64)
    covariance = root @ root.T + 0.1 * torch.eye(4, dtype=F64)
    if kind == "diagonal":
        covariance = covariance.diagonal().diag()
    precision = torch.linalg.inv(covariance)
    moments = Moments(torch.zeros(3, 4, dtype=F64), kind)
    x = torch.randn(3, 4, generator=generator, dtype=F64)
    for _ in range(30):  # a slow walk that has seen next to nothing of the density
        x = x + 0.01 * torch.randn(3, 4, generator=generator, dtype=F64)
        moments(x, -x @ precision)
    learnt = moments.root()
    learnt = learnt.diag_embed().square() if kind == "diagonal" else learnt @ learnt.mT
    torch.testing.assert_close(learnt, covariance.expand(3, 4, 4), rtol=0.05, atol=0.05)


def test_whitening_cures_ill_conditioning() -> None:
    target = IllConditionedGaussian(10, 1e4)
    least = {}
    choices: tuple[Any, ...] = ("none", "diagonal", "dense", known(target.sd))
    for whitening in choices:
        chains = mcmc(target, MALA(), target.sample(8), 400, warmup=400, whitening=whitening)
        least[str(whitening)[:5]] = float(chains.ess("mean").min()) / 8 / chains.gradients
    given = least.pop("tenso")
    assert least["none"] < 0.02
    assert least["diago"] > 0.8 * given and least["dense"] > 0.8 * given


def test_windows_double_and_leave_the_last_quarter() -> None:
    assert windows(1000) == [25, 75, 175, 750]
    assert windows(30) == []
    assert windows(100) == [25, 75]
    for warmup in range(34, 2000, 7):
        ends = windows(warmup)
        assert ends and ends[-1] <= 0.75 * warmup and ends == sorted(set(ends))
