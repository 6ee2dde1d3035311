"""Processes of any kind are held to the contract of `SDE`, and the method that breaks it is named."""

import time
from typing import Any

import pytest
import torch
from lognormal import GeometricBrownian, LogNormal
from torch import Tensor

from backdrift.sde import SDE, GaussianSDE, StationarySDE, Time, as_time, check


class Planar(SDE):
    """General noise that depends on the state: g = [[x_1, 0], [x_0, 1]], so g g^T = [[x_1^2, x_0 x_1], [., x_0^2 + 1]].

    The divergence of its rows is (d(x_0 x_1)/dx_1, d(x_0 x_1)/dx_0) = (x_0, x_1), plus d(x_1^2)/dx_0 = 0 and
    d(x_0^2 + 1)/dx_1 = 0.
    """

    T, noise_type = 1.0, "general"

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return -x * as_time(t, x)

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        zero, one = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
        return torch.stack([torch.stack([x[:, 1], zero], 1), torch.stack([x[:, 0], one], 1)], 1)

    def noise_divergence(self, x: Tensor, t: Time) -> Tensor:
        return x


@pytest.mark.parametrize("sde", [GeometricBrownian(), LogNormal(), Planar()], ids=lambda sde: type(sde).__name__)
def test_a_right_process_has_no_fault(sde: SDE) -> None:
    report = check(sde)
    assert report, str(report)
    assert {finding.method for finding in report.findings} >= {"drift", "diffusion", "noise_divergence"}
    assert str(report).startswith(type(sde).__name__)


def test_a_process_of_the_user_s_own_is_named_by_its_class() -> None:
    assert repr(Planar()) == "Planar(T=1)"


def wrong(**methods: Any) -> SDE:
    """`Planar` or geometric Brownian motion with some of its methods replaced."""
    base = methods.pop("base", GeometricBrownian)
    return type("Wrong", (base,), methods)()


@pytest.mark.parametrize(
    ("sde", "said"),
    [
        (wrong(drift=lambda self, x, t: x[:, :1]), r"drift is at fault: it has the shape \[16, 1\]"),
        (
            wrong(drift=lambda self, x, t: x.mean()[None, None].expand_as(x)),
            "drift is at fault: at t = .* the sample alone",
        ),
        (wrong(drift=lambda self, x, t: x / 0), "drift is at fault: it is not finite"),
        (wrong(diffusion=lambda self, x, t: x / x.norm()), "diffusion is at fault: at t = .* the sample alone"),
        (wrong(diffusion=lambda self, x, t: x[None]), r"diffusion is at fault: its shape \[1, 16, 2\]"),
        (wrong(base=Planar, diffusion=lambda self, x, t: x), r"general noise asks for the shape \[16, 2, m\]"),
        (wrong(state_dependent=False), "state_dependent = False, but the diffusion is at fault"),
        (wrong(base=Planar, noise_divergence=lambda self, x, t: -x), "noise_divergence is at fault"),
        (wrong(apply_noise=lambda self, x, t, z: z), "apply_noise is at fault"),
        (wrong(apply_diffusion=lambda self, x, t, v: v), "apply_diffusion is at fault"),
    ],
)
def test_the_method_at_fault_is_named(sde: SDE, said: str) -> None:
    report = check(sde)
    assert not report
    with pytest.raises(ValueError, match=said):
        report.raise_for_faults()


def test_states_of_another_shape_may_be_given() -> None:
    seen = []

    class Series(GeometricBrownian):
        def drift(self, x: Tensor, t: Time) -> Tensor:
            seen.append(tuple(x.shape[1:]))
            return super().drift(x, t)

    assert check(Series(), x=torch.ones(3, 4, 5))
    assert set(seen) == {(4, 5)}


def test_a_process_whose_signal_vanishes_is_checked_within_seconds() -> None:
    """alpha = 1 - t and sigma = t up to T = 1, where log(alpha) is infinite; and a wrong drift is still found there."""

    class Line(GaussianSDE):
        T = 1.0

        def alpha(self, t: Tensor) -> Tensor:
            return 1 - t

        def sigma(self, t: Tensor) -> Tensor:
            return t

    class WrongLine(Line):
        def drift(self, x: Tensor, t: Time) -> Tensor:
            return -x

    began = time.monotonic()
    report = check(Line())
    assert report, str(report)
    assert not check(WrongLine())
    assert time.monotonic() - began < 60


def test_what_is_no_process_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^sde: expected a process, a subclass of SDE, got int"):
        check(3)  # type: ignore[arg-type]


def test_a_stationary_process_is_checked() -> None:
    """dx = grad log p dt + sqrt(2) dw for p = N(0, 1)."""
    sde = StationarySDE(lambda x: -0.5 * x.square().sum(1))
    assert check(sde), str(check(sde))
