"""Networks given classes, vectors and pictures: what they see, what is refused, and trained ones against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from joint_normal import COVARIANCE, MEAN, conditional, draw
from torch import Tensor, nn

from backdrift.models import (
    MLP,
    ConservativeDenoiser,
    Denoiser,
    DenoisingLoss,
    DiT,
    GaussianMixture,
    HybridScore,
    Label,
    Mask,
    Measurement,
    Picture,
    Potential,
    UNet,
    UNet2D,
    Vector,
    guided,
)
from backdrift.models.conditions import Condition
from backdrift.sde import VE, VP, CriticallyDamped, DataMoments
from backdrift.solvers import Adams, Heun, log_likelihood, sample

D = torch.float64
NAN = math.nan


class Conditional(nn.Module):
    """The exact network of p(a | b), for the `JointNormal` data less MEAN, with b in the units that it is handed.

    Args:
        data_std: d of the denoiser around it.
        units: mean and standard deviation of b in the units of `joint_normal`.
    """

    def __init__(self, data_std: float, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.d, self.mean, self.std = data_std, mean, std
        self.seen: Tensor | None = None

    def forward(self, z: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        self.seen = condition
        s2, d2 = (8 * c_noise).exp()[:, None], self.d**2
        x = z * (s2 + d2).sqrt()
        given = torch.full((2,), NAN, dtype=D) if condition is None else condition
        moments = [conditional(b * self.std + self.mean) for b in given.expand(len(z), 2)]
        mean = torch.stack([each for each, _ in moments]) - MEAN[:2]
        own = torch.stack([each for _, each in moments])
        total = own + s2.unsqueeze(2) * torch.eye(2, dtype=D)
        denoised = mean + (own @ torch.linalg.solve(total, (x - mean).unsqueeze(2))).squeeze(2)
        return (denoised - d2 / (s2 + d2) * x) * (s2 + d2).sqrt() / (s2.sqrt() * self.d)


def exact_model() -> Denoiser:
    """A denoiser whose conditions are in the units of `joint_normal`, and whose network wants them standardised."""
    mean, variance = MEAN[2:], COVARIANCE.diagonal()[2:]
    model = Denoiser(Conditional(0.9, mean, variance.sqrt()), VP(), 0.9)
    model.condition_moments = DataMoments(mean, variance)
    return model


CONDITIONS = torch.tensor([[5100.0, -2.99], [4800.0, -3.01], [NAN, NAN], [5000.0, NAN]], dtype=D)


def exact_denoiser(b: Tensor, x: Tensor, t: Tensor) -> Tensor:
    mean, covariance = conditional(b)
    return GaussianMixture((mean - MEAN[:2])[None], covariance[None], sde=VP()).denoise(x, t)


def test_each_sample_has_the_density_given_its_own_vector() -> None:
    """In the user's units, also where numbers are missing, alone, selected, and under another process."""
    model, t = exact_model(), torch.tensor(0.4, dtype=D)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    given = model.given(Vector(CONDITIONS))
    expected = torch.cat([exact_denoiser(b, x[i : i + 1], t) for i, b in enumerate(CONDITIONS)])
    torch.testing.assert_close(given.denoise(x, t), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(given.select(torch.tensor([3, 1])).denoise(x[[3, 1]], t), expected[[3, 1]])
    one = model.given(Vector(CONDITIONS[0]))
    torch.testing.assert_close(one.denoise(x[:1], t), expected[:1], rtol=1e-9, atol=1e-9)
    assert one.select(torch.tensor([0])) is one
    torch.testing.assert_close(model.denoise(x, t), exact_denoiser(CONDITIONS[2], x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(given.given(None).denoise(x, t), model.denoise(x, t), rtol=0, atol=0)
    assert given.under(VE()).condition is given.condition
    assert model.condition is None


def test_the_likelihood_given_a_vector_is_that_of_the_conditional_density() -> None:
    """log p(a | b) by the flow, against the normal density, within three of the stated deviations of its prior."""
    a, b = draw(3, seed=5)
    found = log_likelihood(exact_model().given(Vector(b)), a - MEAN[:2], method="adaptive", probes="exact")
    for i in range(3):
        mean, covariance = conditional(b[i])
        density = GaussianMixture((mean - MEAN[:2])[None], covariance[None], sde=VP())
        exact = float(density.log_prob(a[i : i + 1] - MEAN[:2], found.eps))
        assert abs(float(found.log_prob[i]) - exact) < 2e-4 + 3 * float(found.prior_error[i])


def test_a_large_mean_leaves_the_digits_of_a_condition() -> None:
    """Numbers that differ by 1e-3 about 1e6 are standardised in float64: float32 would have 0.06 between them."""
    network = MLP(2, 4, 1, vector=1)
    model = Denoiser(network, VP())
    model.condition_moments = DataMoments(torch.tensor([1e6], dtype=D), torch.tensor([1e-6], dtype=D))
    held = model.given(Vector(torch.tensor([1e6 + 1e-3, 1e6 - 2e-3, NAN], dtype=D)[:, None])).condition
    assert held is not None and held.value.dtype == torch.float32
    torch.testing.assert_close(held.value[:2, 0], torch.tensor([1.0, -2.0]), rtol=0, atol=1e-6)
    assert bool(held.value[2].isnan())


# What the networks see ------------------------------------------------------------------------------


def awake(network: nn.Module) -> nn.Module:
    """A network whose weights are all random, in float64: fresh ones begin with layers of zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return network.double().eval()


def picture(*lead: int) -> Tensor:
    return torch.randn(*lead, 2, 5, 6, generator=torch.Generator().manual_seed(3), dtype=D)


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Condition, Condition]] = {
    "mlp-label": (lambda: MLP(3, 8, 1, classes=4), (3,), Label(torch.tensor([1, 0, 3])), Label(torch.tensor(4))),
    "mlp-vector": (
        lambda: MLP(3, 8, 1, vector=2), (3,), Vector(picture()[0, :3, :2]), Vector(torch.full((2,), NAN, dtype=D)),
    ),
    "unet-vector": (
        lambda: UNet(1, (8, 8), 1, vector=2), (1, 5, 6), Vector(picture()[0, :3, :2]),
        Vector(torch.full((2,), NAN, dtype=D)),
    ),
    "unet-picture": (
        lambda: UNet(1, (8, 8), 1, picture=2), (1, 5, 6), Picture(picture(3)),
        Picture(torch.full((2, 5, 6), NAN, dtype=D)),
    ),
    "unet-picture-patches": (
        lambda: UNet(1, (8,), 1, picture=2, patch=2, fourier=(0,)), (1, 5, 6), Picture(picture(3)),
        Picture(torch.full((2, 5, 6), NAN, dtype=D)),
    ),
}  # fmt: skip
"""A network, the shape of a sample, a condition for each of three samples, and the condition that is none."""


def unet2d(**size: int) -> nn.Module:
    return UNet2D(1, (8, 8), attention=(1,), groups=4, head=4, **size)


def dit(**size: int) -> nn.Module:
    return DiT(1, 4, layers=2, heads=2, head=4, **size)


FIELD = {"unet2d": unet2d, "dit": dit}
"""Networks of diffusers."""

for name, network in FIELD.items():
    KINDS |= {
        f"{name}-label": (
            partial(network, classes=4), (1, 4, 4), Label(torch.tensor([1, 0, 3])), Label(torch.tensor(4)),
        ),
        f"{name}-vector": (
            partial(network, vector=2), (1, 4, 4), Vector(picture()[0, :3, :2]), Vector(torch.full((2,), NAN, dtype=D)),
        ),
        f"{name}-picture": (
            partial(network, picture=2), (1, 4, 4), Picture(picture(3)[..., :4, :4]),
            Picture(torch.full((2, 4, 4), NAN, dtype=D)),
        ),
    }  # fmt: skip

without_diffusers = pytest.mark.skipif(find_spec("diffusers") is None, reason="backdrift[diffusers] is not installed")


def of_kinds(*ends: str) -> pytest.MarkDecorator:
    """The kinds whose names end so, for a test of each."""
    chosen = [kind for kind in KINDS if kind.endswith(ends)]
    marked = [pytest.param(k, marks=without_diffusers) if k.split("-")[0] in FIELD else k for k in chosen]
    return pytest.mark.parametrize("kind", marked)


kinds = of_kinds("")


def case(kind: str) -> tuple[Denoiser, Tensor, Condition, Condition]:
    build, shape, condition, nothing = KINDS[kind]
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(4), dtype=D)
    return Denoiser(awake(build()), VP()), x, condition, nothing


@kinds
def test_a_sample_s_condition_is_its_own_and_can_be_none(kind: str) -> None:
    model, x, condition, nothing = case(kind)
    t = torch.tensor(0.5, dtype=D)
    given, plain = model.given(condition).denoise(x, t), model.denoise(x, t)
    assert float((given - plain).detach().flatten(1).abs().amax(1).min()) > 1e-4
    for i in range(3):
        alone = model.given(type(condition)(condition.value[i])).denoise(x[i : i + 1], t)
        torch.testing.assert_close(alone, given[i : i + 1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.given(nothing).denoise(x, t), plain, rtol=0, atol=0)
    mixed = condition.value.clone()
    mixed[1] = nothing.value
    expected = torch.stack([given[0], plain[1], given[2]])
    torch.testing.assert_close(model.given(type(condition)(mixed)).denoise(x, t), expected, rtol=1e-10, atol=1e-12)


@of_kinds("vector", "picture")
def test_a_missing_number_is_not_a_zero(kind: str) -> None:
    """One number that is missing, one that is 0 and one that is not: three different answers."""
    model, x, condition, _ = case(kind)
    answers = []
    for number in (NAN, 0.0, 1.3):
        value = condition.value.clone()
        value[:, 0] = number
        answers.append(model.given(type(condition)(value)).denoise(x, torch.tensor(0.5, dtype=D)).detach())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float((answers[i] - answers[j]).abs().max()) > 1e-4
    assert all(bool(answer.isfinite().all()) for answer in answers)


@kinds
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_the_line_through_the_two_models(kind: str, scale: float) -> None:
    """At every state, and exactly the samples of one of the two for w = 0 and 1."""
    model, x, condition, _ = case(kind)
    t = torch.tensor(0.3, dtype=D)
    found, zero, one = guided(model, condition, scale), model, model.given(condition)
    expected = zero.denoise(x, t) + scale * (one.denoise(x, t) - zero.denoise(x, t))
    torch.testing.assert_close(found.denoise(x, t), expected, rtol=1e-10, atol=1e-12)
    if scale in (0.0, 1.0):
        plain = one if scale else zero
        assert torch.equal(sample(found, Heun(steps=2), x.shape, seed=1), sample(plain, Heun(steps=2), x.shape, seed=1))


@kinds
def test_a_condition_reaches_potentials_and_half_precision(kind: str) -> None:
    """The score of a conservative denoiser is the gradient of its log-density, given the condition."""
    build, shape, condition, _ = KINDS[kind]
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(4), dtype=D)
    model = ConservativeDenoiser(Potential(awake(build())), VP(), 0.8)
    given, t = model.given(condition), torch.tensor(0.4, dtype=D)
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(given.log_prob(point, t).sum(), point)
    torch.testing.assert_close(given.score(x, t), slope, rtol=1e-8, atol=1e-8)
    assert float((given.score(x, t) - model.score(x, t)).abs().max()) > 1e-4
    half = Denoiser(build().bfloat16(), VP()).given(condition)
    assert half.denoise(x.float(), 0.4).dtype == torch.float32


def test_a_model_with_velocities_takes_conditions_too() -> None:
    model = HybridScore(awake(MLP(4, 8, 1, vector=2)), CriticallyDamped())
    u = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    value = picture()[0, :3, :2]
    given = model.given(Vector(value))
    assert float((given.score(u, 0.5) - model.score(u, 0.5)).abs().max()) > 1e-4
    torch.testing.assert_close(given.select(torch.tensor([2])).score(u[2:], 0.5), given.score(u, 0.5)[2:])
    torch.testing.assert_close(given(u, 0.5), model(u, 0.5, value))


@without_diffusers
@pytest.mark.parametrize("kind", ["vector", "picture"])
@pytest.mark.parametrize("name", FIELD)
def test_a_network_of_diffusers_sees_a_condition_where_it_can(name: str, kind: str) -> None:
    """A picture and its mask in channels after those of the image, and the embedding of a vector in place of a class's.

    The networks of diffusers are called by hand, with what they should be given.
    """
    model, x, condition, _ = case(f"{name}-{kind}")
    network: Any = model.network
    c_noise = torch.tensor(-0.2, dtype=D)
    value = condition.value.clone()
    value[1, 0] = NAN
    known = torch.where(value.isnan(), 0.0, value)
    mask = (~value.isnan()).to(D)
    classes = None
    if kind == "vector":
        first, _, last = network.vector
        h = torch.cat((known, mask), 1) @ first.weight.T + first.bias
        classes = (h * h.sigmoid()) @ last.weight.T + last.bias
    elif name == "dit":
        classes = torch.ones(3, dtype=torch.long)
    seen = torch.cat((x, known, mask), 1) if kind == "picture" else x
    expected = network.network(seen, timestep=c_noise.expand(3), class_labels=classes).sample
    torch.testing.assert_close(network(x, c_noise, value), expected, rtol=1e-10, atol=1e-12)


def test_parameters_keep_their_names() -> None:
    """Checkpoints of before there were vectors and pictures load: a network without one has the parameters of then."""
    names = [f"conditioning.{part}" for part in ("noise.0.weight", "noise.0.bias", "noise.2.weight", "noise.2.bias")]
    found = [name for name in MLP(2, 4, 1, classes=3).state_dict() if name.startswith("conditioning")]
    assert found == [*names, "conditioning.label.weight"]
    assert [name for name in UNet(1, (8,), 1).state_dict() if name.startswith("conditioning")] == names
    assert UNet(1, (8,), 1).state_dict()["first.weight"].shape == (8, 1, 3, 3)


# Refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "condition", "message"),
    [
        (MLP(2, 4, 1, vector=3), Vector(torch.zeros(2)), r"^condition: expected shape \[3\] or \[batch, 3\], got \[2"),
        (MLP(2, 4, 1, vector=3), Label(torch.tensor(1)), "^condition: expected a Vector of 3 numbers, .*got a Label$"),
        (MLP(2, 4, 1, vector=3), torch.tensor(1), "^condition: expected a Vector of 3 numbers, .*got a Label$"),
        (MLP(2, 4, 1, classes=3), Vector(torch.zeros(3)), "^condition: expected a Label from 0 to 2, .*got a Vector$"),
        (MLP(2, 4, 1, classes=3), Label(torch.tensor(4)), "^label: expected indices from 0 to 3"),
        (MLP(2, 4, 1), Vector(torch.zeros(3)), "^condition: expected none, since the network is unconditional"),
        (MLP(2, 4, 1), Label(torch.tensor(0)), "^label: expected none, since the network is unconditional"),
        (MLP(2, 4, 1, vector=1), Vector(torch.tensor([math.inf])), "^condition: expected finite numbers, or NaN"),
        (UNet(1, (8,), 1, picture=3), Picture(torch.zeros(1, 4, 4)), r"^condition: expected shape \[3, height, width"),
        (UNet(1, (8,), 1, picture=3), Vector(torch.zeros(3)), "^condition: expected a Picture of 3 channels"),
    ],
)  # fmt: skip
def test_a_condition_that_does_not_fit_is_refused(
    network: nn.Module, condition: Condition | Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Denoiser(network, VP()).given(condition)


def test_what_is_no_condition_is_refused() -> None:
    model = Denoiser(MLP(2, 4, 1, vector=2), VP())
    measured = Measurement(Mask(torch.tensor([True, False])), torch.zeros(1), 0.1)
    with pytest.raises(TypeError, match=r"^condition: expected a Label, Vector or Picture, got Measurement; .*MMPS"):
        model.given(measured)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^condition: expected a Label, Vector, Picture or Measurement, got a tensor"):
        model.given(torch.zeros(2))
    with pytest.raises(ValueError, match=r"^condition: expected shape \[2\] or \[3, 2\], got \[4, 2\]"):
        model.given(Vector(torch.zeros(4, 2))).denoise(torch.zeros(3, 2), 0.5)
    with pytest.raises(TypeError, match=r"^condition: expected a tensor of floating-point numbers, got a tensor of"):
        model(torch.zeros(3, 2), 0.5, torch.zeros(3, 2, dtype=torch.long))
    images = Denoiser(UNet(1, (8,), 1, picture=1), VP())
    with pytest.raises(ValueError, match=r"^condition: expected pictures of 4 x 4 pixels, as the state has, got 8 x 8"):
        images.given(Picture(torch.zeros(1, 8, 8))).denoise(torch.zeros(2, 1, 4, 4), 0.5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: MLP(2, 4, 1, classes=2, vector=3),
        lambda: UNet(1, (8,), 1, vector=3, picture=1),
        lambda: UNet(1, (8,), 1, classes=3, picture=1),
        pytest.param(lambda: unet2d(classes=3, vector=1), marks=without_diffusers),
        pytest.param(lambda: dit(vector=3, picture=1), marks=without_diffusers),
    ],
)
def test_a_network_takes_one_kind(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(
        ValueError, match=r"expected 0, as a network takes one kind of condition, got [a-z]+=\d, [a-z]+=\d$"
    ):
        build()


# Trained --------------------------------------------------------------------------------------------


def train(model: Denoiser, batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, rate: float) -> None:
    """Train on batches of samples and conditions, of which batch(i) gives number i."""
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    generator, loss = torch.Generator().manual_seed(6), DenoisingLoss()
    for step in range(steps):
        x0, condition = batch(step)
        optimiser.zero_grad()
        loss(model, x0, condition=condition, generator=generator).mean().backward()
        optimiser.step()
        schedule.step()
    model.eval().requires_grad_(False)


def withheld(value: Tensor, share: float, seed: int) -> Tensor:
    """Conditions `[batch, ...]` of which a share is missing."""
    missing = torch.rand(len(value), generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(missing.reshape(-1, *(1,) * (value.ndim - 1)), NAN, value)


def test_a_trained_network_has_the_conditional_density_of_a_joint_normal() -> None:
    """Mean and standard deviation of p(a | b) at three b, and of p(a) where b is missing.

    The tolerance beside 4.5 standard errors of 2000 samples is 0.06 standard deviations of a, for the training.
    """
    torch.manual_seed(0)
    a, b = draw(20_000, seed=0)
    moments = DataMoments(b.mean(0), b.var(0))
    centre, std = a.mean(0), float(a.std(0).mean())
    x0, y = (a - centre).float(), ((b - moments.mean) / moments.variance.sqrt()).float()
    model = Denoiser(MLP(2, 64, 2, vector=2), VP(), std)
    model.condition_moments = moments

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x0), (512,), generator=torch.Generator().manual_seed(step))
        return x0[rows], withheld(y[rows], 0.2, step)

    train(model, batch, 700, 5e-3)
    n, spread = 2000, MEAN.new_tensor([1.0, 1.0]) * std
    for given in ([5150.0, -3.004], [4880.0, -2.99], [5000.0, -3.0], [NAN, NAN]):
        value = torch.tensor(given, dtype=D)
        mean, covariance = conditional(value)
        own = covariance.diagonal().sqrt()
        x = sample(model.given(Vector(value)), Adams(steps=12), (n, 2), seed=3).double() + centre
        assert bool(((x.mean(0) - mean).abs() < 4.5 * own / n**0.5 + 0.06 * spread).all()), (given, x.mean(0), mean)
        assert bool(((x.std(0) - own).abs() < 4.5 * own / (2 * n) ** 0.5 + 0.06 * spread).all()), (given, x.std(0), own)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: UNet(1, (16,), 1, picture=1), id="unet"),
        pytest.param(
            lambda: UNet2D(1, (16,), groups=8, picture=1), id="unet2d", marks=(pytest.mark.slow, without_diffusers)
        ),
        pytest.param(
            lambda: DiT(1, 4, patch=1, layers=2, head=8, picture=1),
            id="dit", marks=(pytest.mark.slow, without_diffusers),
        ),
    ],
)  # fmt: skip
def test_a_trained_network_has_the_conditional_density_given_a_picture(build: Callable[[], nn.Module]) -> None:
    """x_0 = 0.3 - 0.6 y + 0.2 eps for pictures y of 4 x 4 pixels: the mean and the deviation, with y and without.

    The tolerance beside 4.5 standard errors of 500 samples is 0.06, a tenth of the deviation of x_0, for the training.
    """
    torch.manual_seed(0)
    model = Denoiser(build(), VP(), math.hypot(0.6, 0.2))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        y, noise = torch.randn(2, 64, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        return -0.6 * y + 0.2 * noise, withheld(y, 0.2, step)

    train(model, batch, 500, 5e-3)
    n = 500
    y = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(77))
    for condition, mean, std in ((Picture(y), -0.6 * y, 0.2), (None, torch.zeros(1, 4, 4), math.hypot(0.6, 0.2))):
        x = sample(model.given(condition), Adams(steps=10), (n, 1, 4, 4), seed=3)
        wrong = (x.mean(0) - mean).abs().max()
        assert float(wrong) < 4.5 * std / n**0.5 + 0.06, wrong
        assert float((x.std(0) - std).abs().max()) < 4.5 * std / (2 * n) ** 0.5 + 0.06, x.std(0)
