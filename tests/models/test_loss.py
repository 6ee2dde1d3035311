"""Denoising score matching: weightings by their definitions, times by their densities, importance without bias."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from backdrift.models import (
    Denoiser,
    DenoisingLoss,
    EDMLikelihoodTimes,
    GaussianMixture,
    ImplicitLoss,
    LikelihoodTimes,
    LogNormalTimes,
    MixedTimes,
    TimeDistribution,
    UniformTimes,
)
from backdrift.models.importance_weights import effective_share
from backdrift.models.loss import Weighting, weight
from backdrift.models.times import stratified_uniform
from backdrift.sde import VE, VP, Brownian, CosineVP, GaussianSDE, OrnsteinUhlenbeck, Rectified, SubVP, Time, as_time

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Brownian(), Rectified(), OrnsteinUhlenbeck(std=2.0)]
TIMES = [
    UniformTimes(),
    LikelihoodTimes(),
    LogNormalTimes(),
    LogNormalTimes(mean=0.0, std=2.0),
    EDMLikelihoodTimes(0.7),
]


class Known(Denoiser):
    """A denoiser that is a given function of x and t, without a network."""

    def __init__(self, function: Callable[[Tensor, Time], Tensor], sde: GaussianSDE, data_std: float = 0.5) -> None:
        super().__init__(nn.Identity(), sde, data_std)
        self.function = function

    def forward(self, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        return self.function(x, t)


class Oracle(Known):
    """The exact denoiser of a mixture on the line, times a factor, which is wrong unless it is 1."""

    def __init__(self, sde: GaussianSDE, factor: float = 1.0) -> None:
        mixture = GaussianMixture(torch.tensor([[-1.0], [1.5]]).double(), torch.tensor([[0.3], [0.05]]), sde=sde)
        super().__init__(lambda x, t: factor * mixture.denoise(x, t), sde, mixture.data_std)
        self.mixture = mixture

    def error(self, t: Tensor) -> Tensor:
        """E|D(x_t, t) - x_0|^2 = E x_0^2 - E D^2, by quadrature over x_t."""
        reach = 6 * self.sde.alpha(t)[:, None] + 9 * self.sde.sigma(t)[:, None]
        x = torch.linspace(-1, 1, 1001, dtype=torch.float64) * reach
        flat, times = x.reshape(-1, 1), t.repeat_interleave(x.shape[1])
        density = self.mixture.log_prob(flat, times).exp().reshape(x.shape)
        denoised = self.mixture.denoise(flat, times).reshape(x.shape)
        second = 0.5 * (0.3 + 1.0) + 0.5 * (0.05 + 2.25)
        return second - torch.trapezoid(density * denoised.square(), x, dim=1)


def draws(n: int, *shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, n, *shape, generator=generator, dtype=torch.float64)
    return x0, eps, torch.rand(n, generator=generator, dtype=torch.float64).clamp(0.01, 0.99)


# Weightings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize("weighting", ["edm", "likelihood", "snr", "noise", "uniform"])
def test_weightings_are_what_they_say(sde: GaussianSDE, weighting: Weighting) -> None:
    """Each loss from the model's noise, score, denoiser or raw network output by its own definition."""
    model = Oracle(sde, factor=0.8)
    x0, eps, u = draws(16, 1)
    t, _ = UniformTimes()(u, sde)
    x = sde.perturb(x0, t, eps)
    alpha, sigma, g = (as_time(c, x) for c in (sde.alpha(t), sde.sigma(t), sde.g(t)))
    denoised = model(x, t)
    noise, score = (x - alpha * denoised) / sigma, (alpha * denoised - x) / sigma.square()
    ratio, d = sigma / alpha, model.data_std
    root = (ratio.square() + d**2).sqrt()

    def raw(value: Tensor) -> Tensor:
        """F with D = c_skip x/alpha + c_out F."""
        return (value - d**2 / root.square() * x / alpha) / (ratio * d / root)

    definitions = {
        "uniform": (denoised - x0).square(),
        "noise": (noise - eps).square(),
        "snr": (denoised - x0).square() / ratio.square(),
        "likelihood": 0.5 * g.square() * (score + eps / sigma).square(),
        "edm": (raw(denoised) - raw(x0)).square(),
    }
    loss = DenoisingLoss(weighting, UniformTimes())(model, x0, u, eps)
    torch.testing.assert_close(loss, definitions[weighting].mean(1), rtol=1e-6, atol=1e-10)


def test_noise_loss_is_the_snr_weighting() -> None:
    x0, eps, u = draws(8, 3, 2)
    model = Known(lambda x, t: x.cos(), VP())
    assert torch.equal(DenoisingLoss("snr")(model, x0, u, eps), DenoisingLoss("noise")(model, x0, u, eps))


def test_edm_loss_of_the_best_constant_is_one_at_every_noise() -> None:
    """Normal data of standard deviation d and a network that says 0: the weighted loss is 1 (Karras et al. 2022)."""
    d, sde, n = 0.5, VE(), 40000
    model = Known(lambda x, t: x * d**2 / (d**2 + sde.sigma(as_time(t, x)).square()), sde, d)
    for u in (0.02, 0.5, 0.98):
        x0, eps, _ = draws(n, 1)
        loss = DenoisingLoss("edm", UniformTimes())(model, d * x0, torch.full((n,), u).double(), eps)
        assert float(loss.mean()) == pytest.approx(1, abs=4.5 * float(loss.std()) / math.sqrt(n))


def test_loss_is_one_number_a_sample_and_independent_of_the_batch() -> None:
    x0, eps, u = draws(5, 1, 4, 4)
    sde, loss, d = VP(), DenoisingLoss(), 0.7
    model = Known(lambda x, t: 0.5 * x, sde, d)
    together = loss(model, x0, u, eps)
    t, _ = loss.times(u, sde)
    exact = (sde.log_snr(t).exp() + d**-2) * (0.5 * sde.perturb(x0, t, eps) - x0).square().mean((1, 2, 3))
    torch.testing.assert_close(together, exact, rtol=1e-10, atol=0)
    for i in range(5):
        torch.testing.assert_close(loss(model, x0[i : i + 1], u[i : i + 1], eps[i : i + 1])[0], together[i])


def test_generator_decides_everything() -> None:
    model, x0 = Oracle(VP()), torch.zeros(4, 1).double()
    a, b, c = (DenoisingLoss()(model, x0, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_unknown_weightings_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^weighting: expected one of edm, likelihood, snr, noise, uniform, got 'min'"
    ):
        DenoisingLoss("min")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^weighting: "):
        weight("min", VP(), torch.tensor(0.5), 1.0)  # type: ignore[arg-type]


# Times ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize("times", TIMES, ids=repr)
def test_importance_is_one_over_the_density(sde: GaussianSDE, times: TimeDistribution) -> None:
    """q = |du/dt|, so the weight 1/((T - eps) q) is |dt/du|/(T - eps): by central differences of t(u)."""
    u = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    h = 1e-5
    slope = (times(u + h, sde)[0] - times(u - h, sde)[0]).abs() / (2 * h)
    t, importance = times(u, sde)
    assert ((t >= sde.eps) & (t <= sde.T)).all()
    torch.testing.assert_close(importance, slope / (sde.T - sde.eps), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_times_follow_their_laws(sde: GaussianSDE) -> None:
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    assert kstest(UniformTimes()(u, sde)[0].numpy(), "uniform", (sde.eps, sde.T - sde.eps)).statistic < 1e-3
    first, last = float(sde.log_snr(sde.T)), float(sde.log_snr(sde.eps))
    log_snr = sde.log_snr(LikelihoodTimes()(u, sde)[0]).numpy()
    assert kstest(log_snr, "uniform", (first, last - first)).statistic < 1e-3
    log_ratio = -0.5 * sde.log_snr(LogNormalTimes(-0.3, 0.7)(u, sde)[0])
    low, high = -0.5 * last, -0.5 * first
    cut = ((-0.3 - low) / 0.7, (-0.3 - high) / 0.7)
    assert kstest(log_ratio.numpy(), "truncnorm", (-cut[0], -cut[1], -0.3, 0.7)).statistic < 1e-3


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_edm_weighting_under_its_likelihood_times_is_the_likelihood_weighting(sde: GaussianSDE) -> None:
    """q(t) w_edm(t) is proportional to w_likelihood(t) at every t."""
    d = 0.7
    t = LikelihoodTimes()(torch.linspace(0.01, 0.99, 30, dtype=torch.float64), sde)[0]
    product = EDMLikelihoodTimes(d).density(t, sde) * weight("edm", sde, t, d)
    ratio = product / weight("likelihood", sde, t, d)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-8, atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_mixed_times_have_the_mixed_distribution(sde: GaussianSDE) -> None:
    """Their distribution function is the mixture of the two, and so is the stated density, by its own integral."""
    first, second, n = LogNormalTimes(-1.0, 1.0), LikelihoodTimes(), 100_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    mixed = MixedTimes(first, second, share=0.3)
    t = mixed(u, sde)[0]
    edges = second(torch.linspace(0, 1, 4001, dtype=torch.float64), sde)[0]
    density = mixed.density(edges, sde)
    stated = torch.cat([edges.new_zeros(1), ((density[1:] + density[:-1]) / 2 * edges.diff()).cumsum(0)])
    apart = [float((part(u, sde)[0] <= edges[2000]).double().mean()) for part in (first, second)]
    drawn = float((t <= edges[2000]).double().mean())
    assert drawn == pytest.approx(0.3 * apart[0] + 0.7 * apart[1], abs=3 / n)
    assert drawn == pytest.approx(float(stated[2000]), abs=1e-4) and float(stated[-1]) == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="share: expected a number between 0 and 1, got 1"):
        MixedTimes(first, second, share=1)


def test_log_normal_times_survive_the_far_tails() -> None:
    """There dt = du/q(t), so the weights 1/((T - eps) q) tell how far the times are from eps and from T."""
    sde, tail = VP(), torch.tensor([1e-12, 1e-8, 1e-12], dtype=torch.float64)
    upper = torch.tensor([False, False, True])
    t, importance = LogNormalTimes()(torch.where(upper, 1 - tail, tail), sde)
    assert (t >= sde.eps).all() and (t <= sde.T).all()
    distance = torch.where(upper, sde.T - t, t - sde.eps)
    torch.testing.assert_close(distance, tail * (sde.T - sde.eps) * importance, rtol=1e-3, atol=2e-12)


@pytest.mark.filterwarnings("ignore:importance")  # the variance of some is large, and is part of the tolerance
@pytest.mark.parametrize("sde", [VP(), Rectified()], ids=repr)
@pytest.mark.parametrize("times", TIMES, ids=repr)
def test_importance_sampling_keeps_the_expectation(sde: GaussianSDE, times: TimeDistribution) -> None:
    """The likelihood loss of the exact model: its expectation by quadrature, estimated within 4.5 standard errors."""
    model, n = Oracle(sde), 50_000
    nodes = LikelihoodTimes()((torch.arange(200, dtype=torch.float64) + 0.5) / 200, sde)
    exact = float((nodes[1] * weight("likelihood", sde, nodes[0], 1.0) * model.error(nodes[0])).mean())
    x0 = model.mixture.sample(n, torch.Generator().manual_seed(1))
    _, eps, _ = draws(n, 1, seed=2)
    u = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    loss = DenoisingLoss("likelihood", times, importance=True)(model, x0, u, eps)
    assert float(loss.mean()) == pytest.approx(exact, abs=4.5 * float(loss.std()) / math.sqrt(n))


@pytest.mark.filterwarnings("ignore:importance")  # of the plain loss, whose variance is what is measured
@pytest.mark.parametrize(("sde", "factor"), [(VP(), 50), (CosineVP(), 30), (Rectified(), 6), (SubVP(), 4)], ids=repr)
def test_likelihood_times_take_the_variance_away(sde: GaussianSDE, factor: float) -> None:
    """Same expectation as uniform times, a small part of the variance."""
    model, n = Oracle(sde), 50_000
    x0 = model.mixture.sample(n, torch.Generator().manual_seed(1))
    _, eps, _ = draws(n, 1, seed=2)
    u = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain, important = (
        DenoisingLoss("likelihood", times, importance=True)(model, x0, u, eps)
        for times in (UniformTimes(), LikelihoodTimes())
    )
    assert factor * float(important.var()) < float(plain.var())
    difference = plain - important
    assert abs(float(difference.mean())) < 4.5 * float(difference.std()) / math.sqrt(n)


def test_stratified_numbers_are_one_in_each_interval() -> None:
    u = stratified_uniform(1000, torch.Generator().manual_seed(0))
    assert u.dtype == torch.float64
    assert torch.equal((u * 1000).floor(), torch.arange(1000).double())
    assert kstest(((u * 1000) % 1).numpy(), "uniform").pvalue > 0.01


def test_stratified_means_converge_like_n_to_the_minus_three_halves() -> None:
    """Against n^-1/2 of independent numbers: the mean of a smooth function of t, over 400 repetitions."""
    generator = torch.Generator().manual_seed(0)
    counts = (8, 64, 512)

    def spread(n: int, independent: bool) -> float:
        means = []
        for _ in range(400):
            u = (
                torch.rand(n, generator=generator, dtype=torch.float64)
                if independent
                else stratified_uniform(n, generator)
            )
            means.append(torch.sin(3 * u).mean())
        return float(torch.stack(means).std())

    for independent, order in ((True, 0.5), (False, 1.5)):
        errors = [spread(n, independent) for n in counts]
        slope = math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])
        assert slope == pytest.approx(order, abs=0.1)


def test_stratified_times_make_a_quieter_loss() -> None:
    """The batch mean of the noise loss at uniform times varies mostly by its times: five times less with strata."""
    sde, n, repeats = VP(), 64, 300
    model = Known(lambda x, t: x * sde.alpha(as_time(t, x)), sde, 1.0)  # the denoiser of N(0, 1)
    loss = DenoisingLoss("noise", UniformTimes())
    generator = torch.Generator().manual_seed(4)
    spreads = []
    for strata in (False, True):
        means = []
        for _ in range(repeats):
            x0, eps = torch.randn(2, n, 64, generator=generator, dtype=torch.float64)
            u = stratified_uniform(n, generator) if strata else torch.rand(n, generator=generator, dtype=torch.float64)
            means.append(loss(model, x0, u, eps).mean())
        spreads.append(float(torch.stack(means).var()))
    assert 5 * spreads[1] < spreads[0]


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize("factor", [1.0, 0.4])
def test_implicit_loss_is_the_denoising_loss_less_its_constant(sde: GaussianSDE, factor: float) -> None:
    """Over eps, by Gauss-Hermite quadrature at one x_0 and t: w |D - x_0|^2 = implicit + w s^2, for any model."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    eps, mass = torch.from_numpy(nodes)[:, None], torch.from_numpy(weights / weights.sum())
    oracle, times = Oracle(sde, factor), UniformTimes()
    for u in (0.4, 0.9):
        at = torch.full((120,), u, dtype=torch.float64)
        given = (oracle, torch.full((120, 1), 0.7, dtype=torch.float64), at, eps)
        denoising = mass @ DenoisingLoss("snr", times)(*given)
        for probes in ("exact", 1):  # on the line a Rademacher probe is exact
            loss = mass @ ImplicitLoss("snr", times, probes=probes)(*given)
            torch.testing.assert_close(loss + 1, denoising, rtol=1e-5, atol=1e-6)  # w s^2 = 1


def test_implicit_loss_trains_the_denoisers_score() -> None:
    """Its gradient in a network's parameter, over many draws, is that of the denoising loss to six standard errors."""
    sde, n = VP(), 40_000
    slope = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    model = Known(lambda x, t: slope * torch.tanh(x), sde, 1.0)
    x0, eps, u = draws(n, 2)
    found = []
    for loss in (DenoisingLoss("edm"), ImplicitLoss("edm")):
        values = loss(model, x0, u, eps)
        chunks = [torch.autograd.grad(c.mean(), slope, retain_graph=True)[0] for c in values.chunk(40)]
        found.append(torch.stack(chunks))
    difference = found[0] - found[1]
    assert abs(float(difference.mean())) < 6 * float(difference.std()) / math.sqrt(40)
    assert float(difference.std()) / math.sqrt(40) < 0.1 * abs(float(found[0].mean()))


@pytest.mark.parametrize("d", [0.5, 2.0])
def test_effective_share_of_draws_is_that_of_many_draws(d: float) -> None:
    """Kong's effective sample size, (sum r)^2/(n sum r^2) of the weighted losses r at a million stratified draws."""
    sde = VP()
    u = (torch.arange(10**6, dtype=torch.float64) + 0.5) / 10**6
    for weighting, times in (("snr", LogNormalTimes()), ("edm", UniformTimes()), ("likelihood", LikelihoodTimes())):
        t, importance = times(u, sde)
        s2 = (-sde.log_snr(t)).exp()
        r = weight(weighting, sde, t, d) * importance * s2 * d * d / (s2 + d * d)  # type: ignore[arg-type]
        drawn = float(r.sum().square() / r.square().sum()) / 10**6
        assert effective_share(weighting, times, sde, d) == pytest.approx(drawn, rel=2e-3)  # type: ignore[arg-type]


def test_useless_importance_weights_are_refused() -> None:
    """Log-normal times seldom come near T, where nearly all of the loss is. Times even in log-SNR give the loss, 1."""
    sde, n = VP(), 100_000
    x0 = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eps = torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = torch.rand(n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = Known(lambda x, t: 0 * x, sde, 1.0)  # its loss is E x_0^2 = 1 at each t
    with pytest.raises(ValueError, match=r"^importance: [\d,]+ draws of LogNormalTimes are worth one"):
        DenoisingLoss("uniform", LogNormalTimes(), importance=True)(model, x0, u, eps)
    kept = DenoisingLoss("uniform", LikelihoodTimes(), importance=True)(model, x0, u, eps)
    assert float(kept.mean()) == pytest.approx(1, abs=4.5 * float(kept.std()) / math.sqrt(n))


def test_poor_importance_weights_are_told() -> None:
    x0 = torch.zeros(4, 1)
    with pytest.warns(UserWarning, match=r"^importance: 1\d\d draws of LogNormalTimes are worth one"):
        DenoisingLoss("likelihood", LogNormalTimes(), importance=True)(Known(lambda x, t: x, VP(), 0.5), x0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x0": torch.zeros(4)}, r"^x0: expected \[batch, \.\.\.\] with at least two axes"),
        ({"x0": torch.zeros(4, 2, dtype=torch.long)}, "^x0: expected a floating-point tensor"),
        ({"u": torch.zeros(3)}, r"^u: expected the shape \[4\], got \[3\]"),
        ({"u": torch.full((4,), 1.5)}, "^u: expected numbers from 0 to 1, got 1.5 to 1.5"),
        ({"u": torch.full((4,), math.nan)}, "^u: expected numbers from 0 to 1, got nan"),
        ({"noise": torch.zeros(4, 1)}, r"^noise: expected the shape \[4, 2\], got \[4, 1\]"),
        ({"model": Known(lambda x, t: x[:, :1], VP(), 1.0)}, r"^model: expected the shape \[4, 2\], got \[4, 1\]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_not_broadcast(arguments: dict, message: str) -> None:
    given = {"model": Known(lambda x, t: x, VP(), 1.0), "x0": torch.zeros(4, 2), **arguments}
    with pytest.raises((ValueError, TypeError), match=message):
        DenoisingLoss()(**given)
