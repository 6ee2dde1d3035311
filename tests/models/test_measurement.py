"""What a measurement takes and what it refuses. The right values are those of the closed-form posterior."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backdrift.models import (
    Blur,
    DownSampling,
    FourierSampling,
    FunctionOperator,
    GaussianMixture,
    Mask,
    Measurement,
    NonlinearMeasurement,
    PoissonMeasurement,
    Projection,
    Radon,
)
from backdrift.models.guides import DPS, JFPS, MMPS, TMPD, DiffPIR, PiGDM
from backdrift.sde import VP

GUIDES = [MMPS, JFPS, DiffPIR, PiGDM, TMPD, DPS]
PICTURE = (1, 4, 6)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ROWS, Y, T = draws(2, 4, seed=3), draws(2, seed=4), torch.tensor(0.4, dtype=torch.float64)
PRIOR = GaussianMixture(draws(3, 4), 0.3, sde=VP())


def refused(name: str, call: Callable[[], Any]) -> None:
    """The call is refused in one line that begins with the name of the argument."""
    with pytest.raises((TypeError, ValueError), match=rf"^{re.escape(name)}: expected") as caught:
        call()
    assert "\n" not in str(caught.value)


def given(std: Any = None, **noise: Any) -> Measurement:
    return Measurement(Projection(ROWS), Y, std, **noise)


@pytest.mark.parametrize("guide", GUIDES)
def test_noise_of_any_kind_of_numbers_is_the_same_noise(guide: Any) -> None:
    """Lists, arrays, and covariances of integers or float32, against tensors of float64."""
    x = draws(3, 4, seed=5)
    one_each, same = given(torch.tensor([0.5, 2.0], dtype=torch.float64)), given(2.0)
    pairs = [
        (given([0.5, 2.0]), one_each), (given(np.array([0.5, 2.0])), one_each), (given(np.float32(2)), same),
        (given(2), same), (given(np.array(2.0)), same), (given(covariance=np.diag([0.25, 4.0])), one_each),
        (given(covariance=[[4, 0], [0, 4]]), same), (given(covariance=4 * torch.eye(2)), same),
    ]  # fmt: skip
    for found, expected in pairs:
        torch.testing.assert_close(guide(PRIOR, found).denoise(x, T), guide(PRIOR, expected).denoise(x, T))
        torch.testing.assert_close(PRIOR.given(found).denoise(x, T), PRIOR.given(expected).denoise(x, T))


def test_noise_that_is_no_noise_is_refused() -> None:
    eye = torch.eye(2)
    stds: list[Any] = [True, "0.1", -0.1, float("nan"), float("inf"), torch.tensor(1j), [0.1], draws(3, 2).abs()]
    stds += [torch.tensor([0.1, float("inf")]), torch.tensor([True, True]), lambda: 0.1]
    for std in stds:
        refused("std", lambda std=std: given(std))  # type: ignore[misc]
        refused("std", lambda std=std: NonlinearMeasurement(lambda x: x[:, :2] ** 3, (4,), Y, std))  # type: ignore[misc]
    wrong: list[Any] = [0.1, [1.0, 1.0], eye[:1], eye * 1j, eye / 0, eye * float("nan"), "a", eye.bool()]
    wrong += [eye + torch.tensor([[0, 0.1], [0, 0]]), torch.ones(2, 2), -eye, 0 * eye]
    for covariance in wrong:
        refused("covariance", lambda covariance=covariance: given(covariance=covariance))  # type: ignore[misc]


def picture_operators() -> list[Any]:
    return [
        Blur(PICTURE, torch.ones(3, 3) / 9), DownSampling(PICTURE, 2), Radon(PICTURE, 3), Mask.half(PICTURE),
        FourierSampling(PICTURE, torch.ones(4, 6, dtype=torch.bool)), Projection(draws(3, *PICTURE)),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.bool])
@pytest.mark.parametrize("operator", picture_operators(), ids=lambda operator: type(operator).__name__)
def test_values_of_any_kind_of_numbers_are_the_same_values(operator: Any, dtype: torch.dtype) -> None:
    """Grey levels, counts and half precision: 0 and 1 are the same number in each."""
    prior, x = GaussianMixture(draws(2, *PICTURE), 0.3, sde=VP()), draws(2, *PICTURE, seed=5)
    y = (operator(draws(1, *PICTURE, seed=6))[0] > 0).double()
    found, expected = (Measurement(operator, value, std=0.5) for value in (y.to(dtype), y))
    torch.testing.assert_close(JFPS(prior, found).denoise(x, T), JFPS(prior, expected).denoise(x, T))
    assert PoissonMeasurement(operator, y.to(dtype)).shape == expected.shape
    with pytest.raises(TypeError, match=r"^value: expected real numbers"):
        Measurement(operator, y * 1j, std=0.5)


def measured(function: Callable[[Tensor], Any], adjoint: Any = None) -> Measurement:
    return Measurement(FunctionOperator(function, (4,), adjoint), torch.zeros(2), std=0.3)


def test_functions_that_are_no_operator_are_refused() -> None:
    two = lambda x: x[:, :2]  # noqa: E731
    masks = torch.ones(3, 4)
    functions: list[Callable[[Tensor], Any]] = [
        lambda x: two(x) ** 2, lambda x: two(x) + 1, lambda x: two(x).clamp(min=0), lambda x: two(x) - two(x).mean(0),
        lambda x: two(x) / two(x).norm(), lambda x: two(x) * torch.rand(2), lambda x: torch.fft.fft(two(x)),
        lambda x: two(x).double(), lambda x: two(x)[0], lambda x: two(x).sum(), lambda x: None, lambda x: x.numpy(),
        lambda x: two(x) * float("nan"), lambda x: two(x) @ torch.ones(3, 2), lambda x: two(masks * x),
    ]  # fmt: skip
    for function in functions:
        refused("operator", lambda function=function: measured(function))  # type: ignore[misc]
    none: Any
    for none in (None, two, Projection, torch.ones(2, 4), SimpleNamespace(shape=(4,))):
        refused("operator", lambda none=none: Measurement(none, torch.zeros(2), std=0.3))  # type: ignore[misc]
        refused("operator", lambda none=none: PoissonMeasurement(none, torch.zeros(2)))  # type: ignore[misc]


def test_adjoints_that_are_none_are_refused() -> None:
    """Three times too large, the pseudo-inverse, in another order, of another shape or dtype; and no derivative."""
    a = draws(2, 4, seed=3).float()
    function: Callable[[Tensor], Tensor] = lambda x: x @ a.mT  # noqa: E731
    inverse = torch.linalg.pinv(a)
    adjoints: list[Any] = [
        lambda y: 3 * y @ a, lambda y: y @ inverse.mT, lambda y: y.flip(1) @ a, lambda y: (y @ a).flip(1),
        lambda y: y, lambda y: (y @ a).double(), lambda y: (y @ a)[:1], lambda y: y @ a + 1, lambda y: None,
    ]  # fmt: skip
    for adjoint in adjoints:
        refused("operator.adjoint", lambda adjoint=adjoint: measured(function, adjoint))  # type: ignore[misc]
    refused("operator.adjoint", lambda: measured(lambda x: torch.from_numpy(x.numpy()[:, :2])))
    assert measured(function, lambda y: y @ a).shape == measured(function).shape == (2,)


def test_functions_without_a_derivative_are_refused() -> None:
    functions: list[Any] = [
        torch.round, torch.sign, lambda x: (x > 0).to(x), lambda x: x.detach(), lambda x: x.argmax(1, keepdim=True),
        lambda x: torch.ones_like(x), lambda x: x / x.norm(), torch.fft.fft, lambda x: x[0], lambda x: x.sum(), 3, None,
    ]  # fmt: skip
    for function in functions:
        refused("function", lambda function=function: NonlinearMeasurement(function, (4,), Y, 0.3))  # type: ignore[misc]
    for function in (lambda x: x.abs()[:, :2], lambda x: x[:, :2].clamp(0, 1), lambda x: x[:, :2].sqrt()):
        assert NonlinearMeasurement(function, (4,), Y, 0.3).shape == (2,)


@pytest.mark.parametrize("guide", GUIDES)
def test_samples_that_do_not_fit_the_measurement_are_refused(guide: Any) -> None:
    """A transposed or flat mask takes as many pixels as the picture has, and 3 measurements would broadcast over one
    sample."""
    prior, x = GaussianMixture(draws(2, *PICTURE), 0.3, sde=VP()), draws(2, *PICTURE, seed=5)
    for shape in ((1, 6, 4), (24,), (4, 6), (12,)):
        seen = torch.arange(torch.Size(shape).numel()).reshape(shape) % 2 == 0
        guided = guide(prior, Measurement(Mask(seen), draws(int(seen.sum())), std=0.3))
        refused("x", lambda guided=guided: guided.denoise(x, T))  # type: ignore[misc]
    three = guide(PRIOR, Measurement(Projection(ROWS), draws(3, 2), std=0.3))
    for n in (1, 2, 4):
        refused("x", lambda n=n: three.denoise(draws(n, 4), T))  # type: ignore[misc]
    # One measurement with an axis for samples is one for all.
    one, alone = (guide(PRIOR, Measurement(Projection(ROWS), y, std=0.3)) for y in (Y, Y.unsqueeze(0)))
    torch.testing.assert_close(alone.denoise(draws(3, 4), T), one.denoise(draws(3, 4), T))
    torch.testing.assert_close(alone.select(torch.tensor([2, 0])).denoise(draws(2, 4), T), one.denoise(draws(2, 4), T))


@pytest.mark.parametrize("guide", [TMPD, DPS])
def test_samples_that_do_not_fit_a_nonlinear_measurement_are_refused(guide: Any) -> None:
    three = guide(PRIOR, NonlinearMeasurement(lambda x: x[:, :2] ** 3, (4,), draws(3, 2), 0.3))
    shorter = guide(PRIOR, NonlinearMeasurement(lambda x: x[:, :2] ** 3, (3,), Y, 0.3))
    refused("x", lambda: three.denoise(draws(1, 4), T))
    refused("x", lambda: shorter.denoise(draws(3, 4), T))


@pytest.mark.parametrize("unit", [1e-8, 1e8])
@pytest.mark.parametrize("guide", [*GUIDES, GaussianMixture.given])
def test_the_unit_of_a_measurement_does_not_matter_in_float32(guide: Any, unit: float) -> None:
    """y, A and the noise in a small or large unit, such as fluxes or counts. The rounding is that of float32."""
    prior, x = PRIOR.to(torch.float32), draws(3, 4, seed=5).float()
    found = guide(prior, Measurement(Projection(unit * ROWS), unit * Y, std=0.3 * unit)).denoise(x, T.float())
    expected = guide(PRIOR, given(0.3)).denoise(x.double(), T)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guide", GUIDES)
def test_units_whose_powers_do_not_fit_are_refused(guide: Any) -> None:
    """In float64 they are right."""
    for unit in (1e-12, 1e12):
        seen, x = Measurement(Projection(unit * ROWS), unit * Y, std=0.3 * unit), draws(3, 4, seed=5)
        refused("measurement", lambda: guide(PRIOR.to(torch.float32), seen).denoise(x.float(), T))  # noqa: B023
        expected = guide(PRIOR, given(0.3)).denoise(x, T)
        torch.testing.assert_close(guide(PRIOR, seen).denoise(x, T), expected, rtol=1e-6, atol=1e-6)
    for dtype in (torch.float16, torch.bfloat16):
        refused("x", lambda: guide(PRIOR, given(0.3)).denoise(x.to(dtype), T))  # noqa: B023
