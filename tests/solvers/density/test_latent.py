"""Latent codes: how well they come back, and great circles between them. Their truth is in test_likelihood."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, CriticallyDamped, GaussianSDE
from backdrift.solvers import decode, encode, interpolate
from backdrift.solvers.density.latent import slerp

TWO_MODES = GaussianMixture(torch.tensor([[-1.0, 0.5, 0.0], [1.0, 0.0, -0.5]]).double(), 0.1, sde=VP())


@pytest.mark.parametrize(
    "settings",
    [{"steps": 5}, {"method": "heun", "steps": 6}, {"method": "adaptive", "rtol": 1e-2, "atol": 1e-2}],
    ids=lambda case: case.get("method", "rk4"),
)
def test_the_round_trip_error_is_the_root_mean_square(settings: dict[str, Any]) -> None:
    """At so few steps that there is an error to see: over three components, by a decoder that the test calls itself."""
    x = TWO_MODES.sample(5, torch.Generator().manual_seed(0))
    found = encode(TWO_MODES, x, **settings)
    back = decode(TWO_MODES, found.latent, **settings)
    expected = torch.linalg.vector_norm(back - x, dim=1) / math.sqrt(3)
    torch.testing.assert_close(found.round_trip_error, expected)
    assert 1e-4 < float(found.round_trip_error.max()) < 0.3


def on_many(sde: GaussianSDE) -> tuple[GaussianMixture, torch.Tensor, torch.Tensor]:
    """The two modes under a process, 100 samples, and their latents to 3e-7."""
    model = GaussianMixture(TWO_MODES.means, 0.1, sde=sde)
    x = model.sample(100, torch.Generator().manual_seed(2))
    return model, x, encode(model, x, steps=256).latent


@pytest.mark.parametrize("sde", [VP(), VE()], ids=lambda sde: type(sde).__name__)
def test_the_latent_error_holds(sde: GaussianSDE) -> None:
    """For at least 90% of 100 samples, which is 95% less two standard errors."""
    model, x, exact = on_many(sde)
    cases: list[dict[str, Any]] = [
        {}, {"steps": 2}, {"steps": 7}, {"steps": 9, "grid": "log_snr"}, {"method": "heun", "steps": 12},
        {"method": "midpoint", "steps": 12}, {"method": "adaptive"}, {"method": "adaptive", "rtol": 1e-2, "atol": 1e-2},
    ]  # fmt: skip
    for settings in cases:
        found = encode(model, x, **settings)
        error = (found.latent - exact).square().mean(1).sqrt()
        assert float((error <= found.latent_error).double().mean()) >= 0.9, settings
        assert float((found.latent_error / error).median()) < 100, settings


def test_a_single_step_is_compared_with_two() -> None:
    x = TWO_MODES.sample(5, torch.Generator().manual_seed(0))
    one, two = (encode(TWO_MODES, x, steps=steps, grid="log_snr") for steps in (1, 2))
    torch.testing.assert_close(one.latent_error, (one.latent - two.latent).square().mean(1).sqrt())


def test_a_latent_may_come_back_and_be_wrong() -> None:
    """The round trip of a Runge-Kutta method errs less than the latent, so that it bounds nothing."""
    model, x, exact = on_many(VP())
    found = encode(model, x, steps=12)
    error = (found.latent - exact).square().mean(1).sqrt()
    assert float((error <= found.round_trip_error).double().mean()) < 0.5


def test_slerp_runs_along_the_circle() -> None:
    """Points on the unit circle, for angles from 0.01 to nearly pi between the ends, and ends of other lengths."""
    for angle in (0.01, 0.3, math.pi / 2, 3.1):
        a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        b = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        for share in (0.0, 0.25, 0.7, 1.0):
            expected = torch.tensor([[math.cos(share * angle), math.sin(share * angle)]], dtype=torch.float64)
            torch.testing.assert_close(slerp(a, b, share), expected, rtol=0, atol=1e-7)
    # Lengths do not change the angle: of 2 a and 5 b, at an angle of 1, the midpoint is (2 a + 5 b)/(2 cos(1/2)).
    a = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    b = 5 * torch.tensor([[math.cos(1.0), math.sin(1.0)]], dtype=torch.float64)
    torch.testing.assert_close(slerp(a, b, 0.5), (a + b) / (2 * math.cos(0.5)))


def test_slerp_of_parallel_points_is_finite() -> None:
    """Between a point and itself it does not move. Between a point and its opposite it is finite."""
    a = torch.tensor([[0.6, -0.8, 2.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    for share in (0.0, 0.3, 0.5, 1.0):
        torch.testing.assert_close(slerp(a, a, share), a, rtol=1e-6, atol=0)
        torch.testing.assert_close(slerp(a, 3 * a, share), (1 + 2 * share) * a, rtol=1e-6, atol=0)
        assert bool(slerp(a, -a, share).isfinite().all())
    torch.testing.assert_close(slerp(a.float(), a.float(), 0.5), a.float())


def test_two_points_between_two_samples_are_the_samples() -> None:
    """Up to the flow's error there and back, whose root mean square over the components `encode` states."""
    a, b = TWO_MODES.sample(8, torch.Generator().manual_seed(1)).chunk(2)
    ends = interpolate(TWO_MODES, a, b, points=2)
    assert ends.shape == (2, 4, 3)
    for end, x in zip(ends, (a, b), strict=True):
        off = (end - x).square().mean(1).sqrt()
        torch.testing.assert_close(off, encode(TWO_MODES, x).round_trip_error, rtol=1e-3, atol=1e-9)
        assert float(off.max()) < 1e-3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "euler"}, "method"),
        ({"method": "score_corrected"}, "method"),
        ({"steps": 0}, "steps"),
        ({"rtol": 0.0}, "rtol"),
        ({"eps": 2.0}, "eps"),
        ({"grid": "karras", "method": "adaptive"}, "grid"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], named: str) -> None:
    x = torch.zeros(2, 3).double()
    for carry in (encode, decode):
        with pytest.raises(ValueError, match=f"^{named}: expected"):
            carry(TWO_MODES, x, **change)
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        interpolate(TWO_MODES, x, x, **change)


def test_shapes_and_processes_are_checked() -> None:
    x = torch.zeros(2, 3).double()
    with pytest.raises(ValueError, match=r"^x: "):
        encode(TWO_MODES, torch.zeros(3).double())
    with pytest.raises(ValueError, match=r"^latent: "):
        decode(TWO_MODES, torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^points: "):
        interpolate(TWO_MODES, x, x, points=1)
    with pytest.raises(ValueError, match=r"^b: "):
        interpolate(TWO_MODES, x, x[:1])
    with pytest.raises(TypeError, match=r"^model: "):
        encode(object(), x)  # type: ignore[arg-type]
    damped = SimpleNamespace(sde=CriticallyDamped(), score=lambda x, t: -x)
    with pytest.raises(ValueError, match=r"^grid: "):
        encode(damped, torch.zeros(2, 2, 3).double(), grid="karras")
