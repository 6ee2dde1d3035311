"""`check` passes what is right, and names the method that is wrong."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from backdrift.sde import (
    VE,
    VP,
    Brownian,
    CosineVP,
    GaussianSDE,
    LinearSDE,
    OrnsteinUhlenbeck,
    Rectified,
    SubVP,
    Time,
    check,
)


class Bare(GaussianSDE):
    """alpha = 1/(1 + t^2), sigma = t: given only these."""

    T = 2.0

    def __repr__(self) -> str:
        return "Bare()"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 / (1 + t.square())

    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()


RIGHT = [
    VP(),
    VP(beta_min=1.0, beta_max=1.0, T=5.0),
    SubVP(),
    CosineVP(),
    CosineVP(offset=0.02, T=0.9),
    VE(),
    VE(sigma_min=0.1, sigma_max=3.0, T=7.0),
    Brownian(),
    Brownian(T=1.0),
    Rectified(),
    Rectified(T=0.9),
    OrnsteinUhlenbeck(),
    OrnsteinUhlenbeck(rate=3.0, std=0.2, T=1.0),
    Bare(),
]


@pytest.mark.parametrize("sde", RIGHT, ids=repr)
def test_right_processes_pass(sde: GaussianSDE) -> None:
    report = check(sde)
    assert report, str(report)
    assert max(finding.error for finding in report.findings) < 1e-5
    report.raise_for_faults()


@dataclass(frozen=True)
class Whole(GaussianSDE):
    """An Ornstein-Uhlenbeck process that gives every coefficient itself, so that each can be wrong alone."""

    T: float = 2.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-t)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-2 * t)).sqrt()

    def f(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def g(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 2**0.5)

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * t).log()

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return 0.5 * torch.log1p(torch.exp(-log_snr))


def test_the_process_to_be_spoilt_is_right() -> None:
    assert check(Whole()), str(check(Whole()))


class DriftTwice(Whole):
    def drift(self, x: Tensor, t: Time) -> Tensor:
        return -2 * x


class RateTwice(Whole):
    def f(self, t: Tensor) -> Tensor:
        return -2 * torch.ones_like(t)


class DriftHalf(VP):
    """A true classic: VP without the half, -beta x dt."""

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return 2 * super().drift(x, t)


class DriftSign(Whole):
    def drift(self, x: Tensor, t: Time) -> Tensor:
        return +x


class DiffusionForgotTwo(Whole):
    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return torch.ones((), dtype=x.dtype)


class VarianceForDiffusion(VP):
    """g^2 in place of g."""

    def g(self, t: Tensor) -> Tensor:
        return self.beta(t)


class AlphaSquared(Whole):
    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-2 * t)


class AlphaOfVP(VP):
    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integrated_beta(t))


class SigmaIsVariance(Whole):
    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-2 * t)


class SigmaScaled(VP):
    def sigma(self, t: Tensor) -> Tensor:
        return 1.1 * super().sigma(t)


class LogSnrIsLambda(Whole):
    def log_snr(self, t: Tensor) -> Tensor:
        return -0.5 * torch.expm1(2 * t).log()

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return 0.5 * torch.log1p(torch.exp(-2 * log_snr))


class InverseOfLambda(Whole):
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return 0.5 * torch.log1p(torch.exp(-2 * log_snr))


class DriftOffset(Whole):
    def drift(self, x: Tensor, t: Time) -> Tensor:
        return 0.1 - x


@pytest.mark.parametrize(
    ("wrong", "method"),
    [
        (DriftTwice, "drift"),
        (RateTwice, "drift"),
        (DriftHalf, "drift"),
        (DriftSign, "drift"),
        (DiffusionForgotTwo, "diffusion"),
        (VarianceForDiffusion, "diffusion"),
        (AlphaSquared, "alpha"),
        (AlphaOfVP, "alpha"),
        (SigmaIsVariance, "sigma"),
        (SigmaScaled, "sigma"),
        (LogSnrIsLambda, "log_snr"),
        (InverseOfLambda, "t_from_log_snr"),
        (DriftOffset, "drift"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_method_at_fault_is_named(wrong: type[GaussianSDE], method: str) -> None:
    """One sentence, which begins with the culprit (a wrong diffusion and a wrong sigma may look the same)."""
    report = check(wrong())
    assert not report
    assert len(report.faults) == 1, report.faults
    blamed = report.faults[0].split(" is at fault")[0]
    either = {"diffusion", "sigma"}
    assert blamed == method or (method in either and set(blamed.replace("(or ", "").replace(")", "").split()) <= either)
    with pytest.raises(ValueError, match=r"is at fault: at t = .* asks for"):
        report.raise_for_faults()


def test_the_size_of_the_error_is_told() -> None:
    """A drift twice too large: where, what it gives, what it should give, and the ratio of the two."""
    report = check(DriftTwice())
    assert "gives -2 where d log(alpha)/dt asks for -1 (ratio 2)" in report.faults[0]
    assert "drift = d log(alpha)/dt" in str(report)
    assert report.faults[0] in str(report)


class NotANumber(Whole):
    def sigma(self, t: Tensor) -> Tensor:
        return torch.where(t > 1, torch.nan, super().sigma(t))


class Rises(GaussianSDE):
    """Noise that goes away again."""

    T = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(3 * t)


def test_a_nan_and_a_noise_that_goes_away_are_faults() -> None:
    assert "sigma" in " ".join(check(NotANumber()).faults)
    assert any("does not fall" in fault or "diffusion" in fault for fault in check(Rises()).faults)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^points: expected an integer of at least 2, got 1$"):
        check(VP(), points=1)
    with pytest.raises(ValueError, match=r"^tolerance: expected a positive number, got 0$"):
        check(VP(), tolerance=0)


def test_the_number_of_points_reaches_every_kind_of_process() -> None:
    """Between few points the worst error lies at one of them."""
    for sde in (VP(), LinearSDE([[0.0, 1.0], [-1.0, -2.0]], [[0.0], [1.0]])):
        start = sde.eps if isinstance(sde, VP) else 0.0
        assert {found.t for found in check(sde, points=2).findings} <= {start, sde.T}
