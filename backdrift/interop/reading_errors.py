"""The errors of a reading of a network at each noise level, beside those of a normal density."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backdrift.interop.estimated import Estimated

LARGEST_RATIO = 1e12
"""What stands for the error of a reading whose denoiser is not finite."""


class ReadingErrors:
    """The errors of each sample at each level, `[n, levels]` in float64.

    Args:
        own: of a reading of the network.
        normal: of the normal density.
        recalibrated: of the reading after the best linear change of its output.
    """

    def __init__(self, own: list[Tensor], normal: list[Tensor], recalibrated: list[Tensor]) -> None:
        self.own, self.normal, self.recalibrated = (torch.stack(part, 1) for part in (own, normal, recalibrated))

    def below_normal(self, tolerance: float, z: float) -> list[bool]:
        """At each level, whether the error is not above that of the normal density by more than is allowed."""
        return not_above(self.own - (1 + tolerance) * self.normal, z)

    def calibrated(self, tolerance: float, z: float) -> list[bool]:
        """At each level, whether no linear change of the output removes more of the error than is allowed."""
        return not_above((1 - tolerance) * self.own - self.recalibrated, z)

    @property
    def influence(self) -> tuple[float, Tensor]:
        """The mean of log(error/normal error) over the levels, and what each sample adds to it, `[n]`."""
        own, normal = self.own.mean(0).clamp(min=1e-300), self.normal.mean(0).clamp(min=1e-300)
        value = float((own / normal).clamp(max=LARGEST_RATIO).log().mean())
        return value, ((self.own / own) - (self.normal / normal)).mean(1)

    @property
    def removable(self) -> float:
        """The mean over the levels of log(error/error after the best linear change of the output)."""
        return float((self.own.mean(0) / self.recalibrated.mean(0).clamp(min=1e-300)).log().mean())

    @property
    def ratio(self) -> Estimated:
        """The geometric mean of error/normal error over the levels."""
        value, each = self.influence
        return Estimated(math.exp(value), math.exp(value) * float(each.std()) / math.sqrt(len(each)))

    def less_than(self, other: ReadingErrors) -> Estimated:
        """The difference of the mean logarithms of the two ratios, other - own: positive where this one is smaller."""
        (own, mine), (value, theirs) = self.influence, other.influence
        return Estimated(value - own, float((theirs - mine).std()) / math.sqrt(len(mine)))


def recalibrated_errors(x0: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """|a D + b x + c - x_0|^2/dim of each sample `[n]`, with the numbers a, b and c for which their mean is least."""
    features = torch.stack([denoised.flatten(), x.flatten(), torch.ones(x.numel(), dtype=torch.float64)], 1)
    size = features.norm(dim=0).clamp(min=1e-300)  # D may be of any scale
    weights = torch.linalg.lstsq(features / size, x0.reshape(-1, 1), driver="gelsd").solution
    return ((features / size @ weights).reshape(x0.shape) - x0).square().mean(1)


def not_above(excess: Tensor, z: float) -> list[bool]:
    """For each column of `[n, levels]`, whether its mean is at most 0, give or take `z` standard errors."""
    error = excess.std(0) / math.sqrt(len(excess))
    return [bool(fine) for fine in excess.mean(0) <= z * error]
