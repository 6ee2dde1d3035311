"""Score, denoiser, noise and velocity are one thing: round trips, and the definitions written out."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import (
    VE,
    VP,
    Brownian,
    CosineVP,
    FunctionModel,
    GaussianSDE,
    OrnsteinUhlenbeck,
    Rectified,
    SubVP,
    affine,
    as_time,
    tweedie,
)
from backdrift.sde.tweedie import Kind

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Brownian(), Rectified(), OrnsteinUhlenbeck(std=2.0)]
KINDS: tuple[Kind, ...] = ("denoised", "score", "noise", "velocity")


def by_definition(sde: GaussianSDE, x: Tensor, denoised: Tensor, t: Tensor) -> dict[str, Tensor]:
    """The four, from x and D alone, each by its own textbook formula."""
    alpha, sigma, f, g = (as_time(part, x) for part in (sde.alpha(t), sde.sigma(t), sde.f(t), sde.g(t)))
    noise = (x - alpha * denoised) / sigma
    score = -noise / sigma
    return {"denoised": denoised, "noise": noise, "score": score, "velocity": f * x - 0.5 * g.square() * score}


def case(sde: GaussianSDE) -> tuple[Tensor, Tensor, Tensor]:
    """x = alpha D + sigma eps at times from 1e-5 to T, so that nothing cancels in the definition."""
    t = torch.tensor([1e-5, 1e-3, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64) * sde.T
    denoised, eps = torch.randn(2, 6, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return sde.perturb(denoised, t, eps), denoised, t


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize(("given", "wanted"), itertools.product(KINDS, KINDS))
def test_each_from_each(sde: GaussianSDE, given: Kind, wanted: Kind) -> None:
    """To the rounding that D = (value - a x)/b and a' x + b' D must have, at any t."""
    x, denoised, t = case(sde)
    truth = by_definition(sde, x, denoised, t)
    result = tweedie(truth[given], x, t, sde, given, wanted)
    (a, b), (a2, b2) = ((as_time(c, x) for c in affine(sde, t, kind)) for kind in (given, wanted))
    if "velocity" in (given, wanted):  # f x and g^2/2 score cancel where sigma hardly grows any more
        terms = (as_time(sde.f(t).abs() + 0.5 * (sde.g(t) / sde.sigma(t)).square(), x) * x).abs()
        a, a2 = (terms / x if kind == "velocity" else c for kind, c in ((given, a), (wanted, a2)))
    condition = (a2 * x).abs() + b2.abs() * ((truth[given].abs() + (a * x).abs()) / b.abs() + denoised.abs())
    assert ((result - truth[wanted]).abs() <= 64 * torch.finfo(torch.float64).eps * condition).all()


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(sde: GaussianSDE, kind: Kind) -> None:
    """D -> kind -> D: exact to what is lost when D is weighed down by noise, sigma/alpha."""
    x, denoised, t = case(sde)
    there = tweedie(denoised, x, t, sde, "denoised", kind)
    back = tweedie(there, x, t, sde, kind, "denoised")
    a, b = (as_time(c, x) for c in affine(sde, t, kind))
    condition = denoised.abs() + (a * x / b).abs()
    assert ((back - denoised).abs() <= 64 * torch.finfo(torch.float64).eps * condition).all()


@pytest.mark.parametrize("t", [0.2, torch.tensor(0.2), torch.full((4,), 0.2)])
def test_time_may_be_scalar_or_per_sample(t: Tensor | float) -> None:
    x, value = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    expected = tweedie(value, x, torch.full((4,), 0.2), VP(), "noise", "velocity")
    torch.testing.assert_close(tweedie(value, x, t, VP(), "noise", "velocity"), expected)


def test_velocity_of_rectified_flow() -> None:
    """For x = (1 - t) x_0 + t eps the velocity is E[eps - x_0 | x]."""
    sde, t = Rectified(), torch.tensor([0.1, 0.9], dtype=torch.float64)
    x0, eps = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = sde.perturb(x0, t, eps)
    torch.testing.assert_close(tweedie(x0, x, t, sde, "denoised", "velocity"), eps - x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("predicts", KINDS)
@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_a_function_becomes_a_model(sde: GaussianSDE, predicts: Kind) -> None:
    """Whatever it predicts, the model made of it gives all four of the mixture it was taken from."""
    means = torch.tensor([[1.0, -1.0], [-0.5, 2.0]], dtype=torch.float64)
    mixture = GaussianMixture(means, 0.2, sde=sde)
    methods = {"denoised": "denoise", "score": "score", "noise": "noise", "velocity": "velocity"}
    model = FunctionModel(getattr(mixture, methods[predicts]), sde, predicts)
    x = sde.prior.std * torch.randn(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64) * sde.T
    for method in methods.values():
        torch.testing.assert_close(getattr(model, method)(x, t), getattr(mixture, method)(x, t), rtol=1e-6, atol=1e-8)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^predicts: expected one of denoised, score, noise, velocity, v, got 'x0'"):
        FunctionModel(lambda x, t: x, VP(), "x0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^wanted: expected one of"):
        tweedie(torch.zeros(1, 1), torch.zeros(1, 1), 0.5, VP(), "score", "flow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^function: expected a function of \(x, t\), got float"):
        FunctionModel(1.0, VP())  # type: ignore[arg-type]


@pytest.mark.parametrize(("sde", "shown"), [("vp", "'vp'"), (VP, "the class VP")])
def test_what_is_no_process_is_refused(sde: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"^sde: expected an SDE, got {shown}$"):
        FunctionModel(lambda x, t: x, sde)
    with pytest.raises(ValueError, match=rf"^sde: expected an SDE or None, got {shown}$"):
        GaussianMixture(torch.zeros(1, 2), 1.0, sde=sde)
