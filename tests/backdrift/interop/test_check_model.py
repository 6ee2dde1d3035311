"""`check_model` says nothing of a network that is read rightly, and names the slip of one that is not."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from backdrift import check_model, interop
from backdrift.interop.check_model import ModelCheck
from backdrift.interop.normal_density import NormalDensity, held_out_errors
from backdrift.models import MLP, Denoiser, DenoisingLoss, GaussianMixture
from backdrift.sde import VE, VP, CosineVP, CriticallyDamped, FunctionModel, GaussianSDE, Model, Rectified, SubVP, Time
from backdrift.solvers.model import ModelLike

MEANS = torch.tensor([[0.0, 1.0], [0.8, -0.6], [-0.9, -0.5]])
STD = 0.14


class Karras(GaussianSDE):
    """x_t = x_0 + t eps."""

    T = 80.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()


class Trained(NamedTuple):
    """A small network trained on a mixture, half of the time without the classes, and held-out data."""

    model: Denoiser
    data: Tensor
    labels: Tensor


def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return MEANS[labels] + STD * torch.randn(n, 2, generator=generator), labels


@pytest.fixture(scope="module")
def networks() -> Trained:
    x0, labels = draw(4000, 0)
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    network = MLP(2, hidden=48, depth=2, classes=3)
    model = Denoiser(network, VP(), float(x0.std()))
    optimizer, loss = torch.optim.Adam(network.parameters(), 6e-3), DenoisingLoss()
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 400)
    for _ in range(400):
        rows = torch.randint(0, len(x0), (192,), generator=generator)
        given = torch.where(torch.rand(192, generator=generator) < 0.5, 3, labels[rows])  # 3 stands for no class
        optimizer.zero_grad()
        loss(model, x0[rows], None, None, given, generator=generator).mean().backward()
        optimizer.step()
        falling.step()
    return Trained(model.eval().requires_grad_(False), *draw(400, 1))


def held(t: Tensor, least: float, most: float) -> Tensor:
    """A time inside the range that the network was trained on, as a network takes any number."""
    return t.clamp(least, most)


@pytest.mark.parametrize("sde", [VP(), VE(), CosineVP(), SubVP(), Rectified()], ids=lambda sde: type(sde).__name__)
def test_nothing_is_said_of_a_network_that_is_read_rightly(networks: Trained, sde: GaussianSDE) -> None:
    found = check_model(networks.model.under(sde), networks.data)
    assert found.passed and found.slips == [] and found.worse == [] and found.uncalibrated == []
    assert "No slip was found" in str(found)


Plant = Callable[[Trained], ModelCheck]


def check(model: ModelLike, data: Tensor, labels: Tensor | None = None) -> ModelCheck:
    """At fewer noise levels than by default, for speed."""
    return check_model(model, data, labels, levels=4)


def noise_of_wrong_sign(n: Trained) -> ModelCheck:
    return check(FunctionModel(lambda x, t: -n.model.noise(x, t), VP(), "noise"), n.data)


def velocity_of_wrong_sign(n: Trained) -> ModelCheck:
    model = n.model.under(Rectified())
    return check(FunctionModel(lambda x, t: -model.velocity(x, t), Rectified(), "velocity"), n.data)


def time_reversed(n: Trained) -> ModelCheck:
    return check(FunctionModel(lambda x, t: n.model.noise(x, held(1 - as_tensor(t), 1e-4, 1)), VP(), "noise"), n.data)


def data_at_the_end(n: Trained) -> ModelCheck:
    """A flow-matching network that was trained with t = 1 as data, called as if t = 0 were."""
    model = n.model.under(Rectified())

    def velocity(x: Tensor, t: Time) -> Tensor:
        return -model.velocity(x, held(1 - as_tensor(t), 1e-3, 0.999))

    return check(FunctionModel(velocity, Rectified(), "velocity"), n.data)


def of_sigma(n: Trained, called_with: Callable[[Tensor], Tensor]) -> ModelCheck:
    """A denoiser that expects sigma, called with something else."""
    model = n.model.under(Karras())
    return check_model(
        FunctionModel(lambda x, t: model.denoise(x, held(called_with(as_tensor(t)), 2e-3, 80)), Karras()), n.data
    )


def variance_for_sigma(n: Trained) -> ModelCheck:
    return of_sigma(n, lambda sigma: sigma.square())


def sigma_for_variance(n: Trained) -> ModelCheck:
    return of_sigma(n, lambda sigma: sigma.sqrt())


def c_noise_for_sigma(n: Trained) -> ModelCheck:
    return of_sigma(n, lambda sigma: sigma.log() / 4)


def missing_scaling(n: Trained) -> ModelCheck:
    model, std = n.model.under(Karras()), float(n.data.std())

    def of_scaled(z: Tensor, t: Time) -> Tensor:
        sigma = as_tensor(t)
        return model.denoise(z * (sigma.square() + std**2).sqrt(), sigma)

    return check(FunctionModel(of_scaled, Karras()), n.data)


def noise_read_as_data(n: Trained) -> ModelCheck:
    return check(FunctionModel(n.model.noise, VP(), "denoised"), n.data)


def v_of(n: Trained, x: Tensor, t: Time) -> Tensor:
    sde = VP()
    return sde.alpha(t) * n.model.noise(x, t) - sde.sigma(t) * n.model.denoise(x, t)


def v_read_as_noise(n: Trained) -> ModelCheck:
    return check(FunctionModel(lambda x, t: v_of(n, x, t), VP(), "noise"), n.data)


def time_in_999_steps(n: Trained) -> ModelCheck:
    return check(FunctionModel(lambda x, t: n.model.noise(x, held(as_tensor(t) / 999, 1e-4, 1)), VP(), "noise"), n.data)


def data_in_0_1(n: Trained) -> ModelCheck:
    return check(n.model, (n.data + 1) / 2)


class Variance(VP):
    """VP by somebody who takes the variance for its root."""

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t).square()

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    t_from_log_snr = GaussianSDE.t_from_log_snr
    g = GaussianSDE.g


def process_of_the_variance(n: Trained) -> ModelCheck:
    return check(FunctionModel(n.model.noise, Variance(), "noise"), n.data)


class Swapped(GaussianSDE):
    """alpha = sin and sigma = cos, by somebody who mixed them up."""

    T = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * (0.98 * t + 0.01)).sin()

    def sigma(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * (0.98 * t + 0.01)).cos()


class Meant(Swapped):
    """What he meant. Its noise grows with the square root of t, so that it is not the other one run backwards."""

    def alpha(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * (0.98 * t.sqrt() + 0.01)).cos()

    def sigma(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * (0.98 * t.sqrt() + 0.01)).sin()


class MeantSwapped(Meant):
    def alpha(self, t: Tensor) -> Tensor:
        return super().sigma(t)

    def sigma(self, t: Tensor) -> Tensor:
        return super().alpha(t)


def alpha_and_sigma_swapped(n: Trained) -> ModelCheck:
    return check(FunctionModel(n.model.under(Meant()).noise, MeantSwapped(), "noise"), n.data)


def labels_missing(n: Trained) -> ModelCheck:
    return check(n.model, n.data, n.labels)


def labels_from_1(n: Trained) -> ModelCheck:
    class FromOne(Model):
        """A model whose classes are 1, 2 and 3."""

        sde = VP()

        def __init__(self, labels: Tensor) -> None:
            self.labels = labels

        def given(self, labels: Tensor) -> "FromOne":
            return FromOne(labels)

        def select(self, rows: Tensor) -> "FromOne":
            return FromOne(self.labels[rows])

        def denoise(self, x: Tensor, t: Time) -> Tensor:
            return n.model.given(self.labels - 1).denoise(x, t)

    return check(FromOne(n.labels.clamp(min=1)), n.data, n.labels)


class Unconditional(Model):
    sde = VP()

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        return x


def as_tensor(t: Time) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float32)


SLIPS: dict[Plant, str] = {
    noise_of_wrong_sign: "the sign of the noise",
    velocity_of_wrong_sign: "the sign of the velocity",
    time_reversed: "the direction of time is reversed: the network has its data at the end",
    data_at_the_end: "the direction of time is reversed, and with it the sign",
    variance_for_sigma: "expects sigma, and is given the variance",
    sigma_for_variance: "expects the variance sigma^2, and is given sigma",
    c_noise_for_sigma: "expects sigma, and is given c_noise",
    missing_scaling: "the scaling of the input is missing: x/sqrt(alpha^2 d^2 + sigma^2)",
    noise_read_as_data: "the output is the noise eps, and is read as x_0",
    v_read_as_noise: "the output is v = alpha eps - sigma x_0, and is read as the noise",
    time_in_999_steps: "counts time from 0 to 999",
    data_in_0_1: "the data are in [0, 1], and the network expects [-1, 1]",
    process_of_the_variance: "the process has the variance in the place of sigma",
    alpha_and_sigma_swapped: "alpha and sigma are swapped",
    labels_missing: "the labels are missing",
    labels_from_1: "the labels count from 1",
}


RARE = (
    velocity_of_wrong_sign,
    sigma_for_variance,
    missing_scaling,
    process_of_the_variance,
    alpha_and_sigma_swapped,
    labels_from_1,
)
"""The slips that are planted with `-m slow` alone."""


@pytest.mark.parametrize(
    "plant",
    [pytest.param(plant, marks=pytest.mark.slow if plant in RARE else ()) for plant in SLIPS],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_slip_is_named(networks: Trained, plant: Plant) -> None:
    found = plant(networks)
    assert not found.passed
    names = [slip.name for slip in found.slips]
    # A network that expects the variance is right for a process with another sigma, and one that expects 1 - t for
    # alpha and sigma swapped where alpha = 1 - t and sigma = t. Then both are named.
    several = (
        sigma_for_variance,
        variance_for_sigma,
        process_of_the_variance,
        alpha_and_sigma_swapped,
        data_at_the_end,
    )
    assert len(names) == 1 or plant in several, str(found)
    assert len(names) <= 3 and any(SLIPS[plant] in name for name in names), str(found)
    for slip in found.slips:
        assert slip.ratio.value < 0.9 * slip.as_given.value
        assert slip.name in str(found)


def test_a_model_without_a_stated_prediction_is_seen_through_as_well(networks: Trained) -> None:
    """A class of the user's own, which turns v into a denoiser as if it were the noise."""

    class Own(Model):
        sde = VP()

        def denoise(self, x: Tensor, t: Time) -> Tensor:
            return (x - self.sde.sigma(t) * v_of(networks, x, t)) / self.sde.alpha(t)

    found = check(Own(), networks.data)
    assert "the output is v = alpha eps - sigma x_0, and is read as the noise eps" in found.slips[0].name


def test_a_network_with_its_labels_passes(networks: Trained) -> None:
    assert check_model(networks.model.given(networks.labels), networks.data).passed


@pytest.mark.parametrize("sde", [VP(), VE(), Rectified()], ids=lambda sde: type(sde).__name__)
def test_the_numbers_of_a_normal_density_are_its_closed_forms(sde: GaussianSDE) -> None:
    """For N(0, d^2) the error is d^2 s^2/(d^2 + s^2), with s = sigma/alpha. All holds within four standard errors."""
    exact = GaussianMixture(torch.zeros(1, 3), 0.25, sde=sde)
    found = check_model(exact, exact.sample(600, torch.Generator().manual_seed(0)))
    assert found.passed
    for row in found.levels:
        assert abs(row.error.value - 0.25 * row.noise**2 / (0.25 + row.noise**2)) < 4 * row.error.error
        assert abs(row.stein.value) < 4 * row.stein.error
        assert abs(row.mean.value) < 5 * row.mean.error
        assert row.removable.value < 0.02
        assert row.ratio.value < 1 + 4 * row.ratio.error


def test_a_network_that_learnt_nothing_is_not_given_a_slip(networks: Trained) -> None:
    generator = torch.Generator().manual_seed(0)
    found = check_model(
        FunctionModel(lambda x, t: torch.randn(x.shape, generator=generator), VP(), "noise"), networks.data
    )
    assert not found.passed and found.slips == [] and "None of" in str(found)


def test_the_normal_density_denoises_as_a_mixture_of_one_does() -> None:
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]])
    exact = GaussianMixture(torch.tensor([[0.3, -1.0]]), covariance[None], sde=VE())
    x0 = exact.sample(100_000, torch.Generator().manual_seed(0))
    fitted = NormalDensity.of(x0)
    x = torch.tensor([[0.5, 0.1], [-2.0, 1.0]])
    t = VE().t_from_log_snr(torch.tensor(0.0))  # sigma = 1
    assert fitted.denoise(x, 1.0, float(VE().sigma(t))).float().allclose(exact.denoise(x, t), atol=0.03)
    errors = held_out_errors(x0, x0 + torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)), 1.0, 1.0)
    expected = float(torch.linalg.inv(torch.linalg.inv(covariance) + torch.eye(2)).trace()) / 2
    assert abs(float(errors.mean()) - expected) < 4 * float(errors.std()) / math.sqrt(len(errors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": torch.zeros(10, 2)}, "data: expected at least 64 samples, got 10"),
        ({"data": torch.zeros(100, 2)}, "data: expected samples that differ"),
        ({"data": torch.full((100, 2), math.nan)}, "data: expected finite numbers"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels: expected shape \[400\]"),
        ({"levels": 0}, "levels: expected a positive integer, got 0"),
        ({"tolerance": -1.0}, "tolerance: expected a non-negative number"),
        ({"false_alarm": 0.0}, "false_alarm: expected a number between 0 and 1"),
        (
            {"model": Unconditional(), "labels": torch.zeros(400, dtype=torch.long)},
            "labels: expected a model with `given`",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused(networks: Trained, change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"model": networks.model, "data": networks.data, **change}
    with pytest.raises(ValueError, match=message):
        check_model(**arguments)  # type: ignore[arg-type]


def test_a_process_without_a_denoiser_is_refused(networks: Trained) -> None:
    class Own:
        sde = CriticallyDamped()

        def score(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    with pytest.raises(ValueError, match="model: expected a Gaussian process, got CriticallyDamped"):
        check_model(Own(), networks.data)


def test_it_stands_beside_the_adapters() -> None:
    """Its module has the same name, and must not be taken for it."""
    assert interop.check_model is check_model
