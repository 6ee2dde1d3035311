"""Correctors: the densities that they leave unchanged, their step sizes, and predictors with correctors."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from given_noise import GivenNoise
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, GaussianSDE, Rectified
from backdrift.solvers import (
    DDIM,
    EulerMaruyama,
    LangevinCorrector,
    MetropolisCorrector,
    Noise,
    OrnsteinUhlenbeckCorrector,
    PredictorCorrector,
    TableSolver,
    sample,
)
from backdrift.solvers.model import Denoises
from backdrift.solvers.noise import ACCEPT
from backdrift.solvers.tables.table_solver import Final

AnyCorrector = LangevinCorrector | OrnsteinUhlenbeckCorrector | MetropolisCorrector
CORRECTORS = [LangevinCorrector(), OrnsteinUhlenbeckCorrector(), MetropolisCorrector()]


def mixture(sde: GaussianSDE) -> GaussianMixture:
    means = torch.tensor([[1.0, -1.0], [-1.0, 0.5]], dtype=torch.float64)
    covariances = torch.tensor([[[0.6, 0.3], [0.3, 0.5]], [[0.3, -0.1], [-0.1, 0.8]]], dtype=torch.float64)
    return GaussianMixture(means, covariances, torch.tensor([0.6, 0.4]), sde)


def noised(model: GaussianMixture, n: int, t: Tensor, seed: int) -> Tensor:
    """Exact samples of p_t."""
    generator = torch.Generator().manual_seed(seed)
    x0 = model.sample(n, generator)
    return model.sde.perturb(x0, t, torch.randn(x0.shape, generator=generator, dtype=x0.dtype))


def noises(n: int, seed: int = 0) -> tuple[Noise, Noise]:
    noise = Noise(seed, (n, 2), dtype=torch.float64)
    return noise, noise.sibling((n, 1), ACCEPT)


def always(z: Tensor) -> Noise:
    return GivenNoise(lambda: z)


def features(x: Tensor) -> Tensor:
    first, second = x.unbind(1)
    return torch.stack([first, second, first**2, second**2, first * second, first.abs(), (first > 0).double()])


def largest_z(x: Tensor, model: GaussianMixture, t: Tensor) -> float:
    """The largest difference between the moments of x and those of many exact samples of p_t, in standard errors."""
    got, expected = features(x), features(noised(model, 200_000, t, seed=99))
    error = expected.std(1) * math.sqrt(1 / x.shape[0] + 1 / 200_000)
    return float(((got.mean(1) - expected.mean(1)) / error).abs().max())


@pytest.mark.parametrize("sde", [VP(), VE(), Rectified()], ids=repr)
@pytest.mark.parametrize(("ratio", "h"), [(0.3, 5.0), (1.5, 0.8)])
def test_metropolis_leaves_the_density_as_it_is(sde: GaussianSDE, ratio: float, h: float) -> None:
    """30 large steps keep the moments of exact samples within 4.5 standard errors. Unadjusted steps do not."""
    model, n = mixture(sde), 4000
    t = sde.t_from_log_snr(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))
    x = noised(model, n, t, seed=1)
    moved = MetropolisCorrector(h=h, steps=30).correct(model, x, t, *noises(n))
    assert largest_z(moved, model, t) < 4.5
    assert float((moved - x).norm(dim=1).mean()) > 0.5 * float(x.std())  # the samples have moved
    unadjusted, noise = x, noises(n)[0]
    delta = h * sde.sigma(t).square()
    for _ in range(30):
        unadjusted = unadjusted + delta * model.score(unadjusted, t) + (2 * delta).sqrt() * noise()
    assert largest_z(unadjusted, model, t) > 5


def test_metropolis_finds_the_density() -> None:
    """It reaches p_t from a starting density that is much too wide."""
    model, n = mixture(VP()), 3000
    t = torch.tensor(0.4, dtype=torch.float64)
    x = 3 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert largest_z(x, model, t) > 20
    assert largest_z(MetropolisCorrector(h=0.5, steps=100).correct(model, x, t, *noises(n)), model, t) < 4.5


def test_metropolis_refuses_by_the_density() -> None:
    """The share of rejected steps is 1 - E min(1, ratio), with the exact log-densities and the same proposals."""
    model, n, h = mixture(VP()), 4000, 1.5
    t = torch.tensor(0.3, dtype=torch.float64)
    x = noised(model, n, t, seed=2)
    moved = MetropolisCorrector(h=h).correct(model, x, t, *noises(n, seed=3))
    z = noises(n, seed=3)[0]()
    delta = h * VP().sigma(t).square()
    new = x + delta * model.score(x, t) + (2 * delta).sqrt() * z
    back = (x - new - delta * model.score(new, t)) / (2 * delta).sqrt()
    ratio = model.log_prob(new, t) - model.log_prob(x, t) + 0.5 * (z.square() - back.square()).sum(1)
    expected = 1 - float(ratio.exp().clamp(max=1).mean())
    refused = float((moved == x).all(1).double().mean())
    assert 0.1 < expected < 0.9
    assert refused == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / n) + 0.01)


@pytest.mark.parametrize("h", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("sde", [VP(), VE(), Rectified()], ids=repr)
def test_ornstein_uhlenbeck_step_is_exact_for_normal_data(sde: GaussianSDE, h: float) -> None:
    """Var x' = Var x = R^2 for every h, from the coefficients of x and z, and the step is stable for every h."""
    d = 0.6
    model = GaussianMixture(torch.zeros(1, 1).double(), d**2, sde=sde)
    corrector = OrnsteinUhlenbeckCorrector(h=h)
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    for t in (0.05 * sde.T, 0.5 * sde.T, sde.T):
        time = torch.tensor(t, dtype=torch.float64)
        carry = float(corrector.correct(model, one, time, always(zero), always(zero)))
        kick = float(corrector.correct(model, zero, time, always(one), always(zero)))
        total = float((sde.alpha(time) * d).square() + sde.sigma(time).square())
        assert carry**2 * total + kick**2 == pytest.approx(total, rel=1e-12)
        assert abs(carry) < 1


def test_ornstein_uhlenbeck_step_is_langevins_for_small_h() -> None:
    """x' - x = h sigma^2 score + sqrt(2 h) sigma z to first order in h, for h and for half of it."""
    model, t, h = mixture(VP()), torch.tensor(0.3, dtype=torch.float64), 1e-5
    x, z = noised(model, 5, t, seed=4), torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    zero = torch.zeros_like(z)
    drift = OrnsteinUhlenbeckCorrector(h=h).correct(model, x, t, always(zero), always(zero)) - x
    kick = OrnsteinUhlenbeckCorrector(h=h).correct(model, x, t, always(z), always(zero)) - x - drift
    sigma = VP().sigma(t)
    torch.testing.assert_close(drift, h * sigma.square() * model.score(x, t), rtol=1e-4, atol=0)
    torch.testing.assert_close(kick, math.sqrt(2 * h) * sigma * z, rtol=1e-4, atol=0)


def test_langevins_step_size() -> None:
    """delta = 2 (alpha snr)^2/(|score|^2/dim) with the score of each sample, within its two bounds."""
    sde = VP()
    model, t = mixture(sde), torch.tensor(0.4, dtype=torch.float64)
    alpha, variance, d = sde.alpha(t), sde.sigma(t).square(), model.data_std
    x = noised(model, 50, t, seed=5)
    x[0] *= 20  # for this sample |score|^2/dim is larger than 1/R^2
    zero = torch.zeros_like(x)
    for snr in (0.16, 5.0):
        moved = LangevinCorrector(snr=snr).correct(model, x, t, always(zero), always(zero))
        score = model.score(x, t)
        size = (score.square().mean(1)).clamp(min=float(1 / (variance + (alpha * d) ** 2)))
        delta = (2 * (alpha * snr) ** 2 / size).clamp(max=float(variance / 2))
        torch.testing.assert_close(moved, x + delta[:, None] * score, rtol=1e-12, atol=1e-12)
        kick = torch.ones_like(x)
        kicked = LangevinCorrector(snr=snr).correct(model, x, t, always(kick), always(zero))
        torch.testing.assert_close(kicked - moved, (2 * delta).sqrt()[:, None].expand(-1, 2), rtol=1e-9, atol=1e-9)


def test_langevin_survives_a_score_that_vanishes() -> None:
    """At the mode of a Gaussian the score is 0, where the step size of Song et al. is infinite. Ours is bounded by
    delta = 2 (alpha snr)^2 R^2, with R^2 = 1 for N(0, 1) under VP, so one step is sqrt(2 delta) z."""
    sde: GaussianSDE = VP()
    model, mode, t = GaussianMixture(torch.zeros(1, 2).double(), 1.0, sde=sde), torch.zeros(4, 2).double(), 0.5
    once = LangevinCorrector(snr=0.16).correct(model, mode, torch.tensor(t).double(), *noises(4))
    torch.testing.assert_close(once, 2 * float(sde.alpha(t)) * 0.16 * noises(4)[0](), rtol=1e-9, atol=0)
    moved = LangevinCorrector(steps=3).correct(model, mode, torch.tensor(t).double(), *noises(4))
    assert float(moved.abs().max()) < 5


@pytest.mark.parametrize("corrector", CORRECTORS, ids=lambda c: type(c).__name__)
def test_correction_mends_a_coarse_predictor(corrector: AnyCorrector) -> None:
    """DDIM(eta=1) with 12 steps gives a too small variance for normal data, and a corrector brings it nearer."""
    model, n = GaussianMixture(torch.zeros(1, 2).double(), 0.36, sde=VP()), 2000
    predictor = DDIM(steps=12, eta=1.0)
    plain = float(sample(model, predictor, (n, 2), seed=1).var()) / 0.36
    corrector = dataclasses.replace(corrector, steps=10)
    if not isinstance(corrector, LangevinCorrector):
        corrector = dataclasses.replace(corrector, h=0.5)
    solver = PredictorCorrector(predictor=predictor, corrector=corrector)
    mended = float(sample(model, solver, (n, 2), seed=1).var()) / 0.36
    assert plain < 0.75
    assert abs(mended - 1) < 0.6 * abs(plain - 1)


@pytest.mark.parametrize("final", ["denoise", "stop"])
def test_corrected_at_every_time_but_the_datas(final: Final) -> None:
    """The corrector acts at every time of the grid after T, except at the data."""
    times: list[float] = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watching(LangevinCorrector):
        def correct(self, model: Denoises, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
            times.append(float(t))
            return x

    predictor = EulerMaruyama(steps=5, final=final)
    sample(mixture(VP()), PredictorCorrector(predictor=predictor, corrector=Watching()), (2, 2))
    assert times == pytest.approx(predictor.times(VP())[1:].tolist())


@pytest.mark.parametrize("corrector", CORRECTORS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("predictor", [EulerMaruyama(steps=8), DDIM(steps=8)], ids=lambda p: type(p).__name__)
def test_a_sample_does_not_know_its_neighbours(corrector: AnyCorrector, predictor: TableSolver) -> None:
    """Step sizes from batch means, as in the paper, would fail this."""
    solver = PredictorCorrector(predictor=predictor, corrector=dataclasses.replace(corrector, steps=2))
    model = mixture(VP())
    batch = sample(model, solver, (64, 2), seed=5)
    for i in (0, 40, 63):
        torch.testing.assert_close(sample(model, solver, (1, 2), seed=5, first=i)[0], batch[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 5), (3, 2, 3, 7)])
@pytest.mark.parametrize("corrector", CORRECTORS, ids=lambda c: type(c).__name__)
def test_any_shape(corrector: AnyCorrector, shape: tuple[int, ...]) -> None:
    """For normal data of this shape, the samples have the right variance up to a factor, in every component."""
    model, n = GaussianMixture(torch.zeros(1, *shape[1:]), 1.0, sde=VP()), 200
    x = sample(model, PredictorCorrector(corrector=corrector), (n, *shape[1:]), seed=0)
    assert float(x.var()) == pytest.approx(1, abs=0.35)
    torch.testing.assert_close(x.var(0), torch.ones(shape[1:]), rtol=0, atol=0.35 + 4 * math.sqrt(2 / n))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LangevinCorrector(snr=0.0), "snr"),
        (lambda: LangevinCorrector(steps=0), "steps"),
        (lambda: OrnsteinUhlenbeckCorrector(h=-1.0), "h"),
        (lambda: MetropolisCorrector(h=float("nan")), "h"),
        (lambda: PredictorCorrector().solve(mixture(VP()), torch.zeros(1, 2)), "noise"),
    ],
)
def test_what_makes_no_sense_is_named(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        make()
