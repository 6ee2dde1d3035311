"""The Radon transform: what a tomograph with parallel beams sees of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from backdrift.models.operators import LinearOperator
from backdrift.sde.value_types import Count, Filled, Range, require

Angles = Annotated[list[Annotated[float, Range()]], Filled()]


class Radon(LinearOperator):
    r"""Integrals of each channel of a picture along parallel lines (Radon 1917; Kak & Slaney 1988, eq. 3.3),

    .. math:: p(s, \theta) = \int f(s \cos\theta - \tau \sin\theta, \; s \sin\theta + \tau \cos\theta) \, d\tau

    with x to the right and y down from the middle of the picture, in pixels. The picture is interpolated bilinearly and
    is 0 outside. The detector has a cell for each pixel of the diagonal, so that no ray is lost. The adjoint is that of
    the sums which are computed here, to rounding.

    The result is `[batch, channels, angles, cells]`. At 0 degrees it has the sums of the columns.

    Args:
        shape: `[channels, height, width]` of one picture.
        angles: how many, evenly spaced over half a turn from 0, or a list of angles in degrees.

    Raises:
        ValueError: if samples are not pictures, or `angles` is neither a positive integer nor a list of numbers.
    """

    def __init__(self, shape: Sequence[int], angles: Count | Angles = 30) -> None:
        require("angles", angles, Count | Angles)
        super().__init__(shape)
        if len(self.shape) != 3:
            raise ValueError(f"shape: expected pictures [channels, height, width], got {list(self.shape)}")
        degrees = [180 * k / angles for k in range(angles)] if isinstance(angles, int) else angles
        self.angles = torch.tensor(degrees, dtype=torch.float64, device="cpu").deg2rad()
        _, height, width = self.shape
        cells = math.ceil(math.hypot(height, width))
        self.cells = cells + (cells - width) % 2  # cells in line with the columns at 0 degrees

    def __call__(self, x: Tensor) -> Tensor:
        # One angle at a time, since the points of all rays are as many as the pixels of a picture for each angle.
        return torch.stack([self._seen(x, angle) for angle in self.angles], 2)

    def _seen(self, x: Tensor, angle: Tensor) -> Tensor:
        """The integrals at one angle, `[batch, channels, cells]`."""
        place = torch.arange(self.cells, dtype=torch.float64, device="cpu") - (self.cells - 1) / 2
        along, across = torch.meshgrid(place, place, indexing="ij")  # tau in rows, s in columns
        right = across * angle.cos() - along * angle.sin()
        down = across * angle.sin() + along * angle.cos()
        points = torch.stack([2 * right / self.shape[2], 2 * down / self.shape[1]], 2).to(x)
        each = points.expand(len(x), -1, -1, -1)
        return functional.grid_sample(x, each, "bilinear", "zeros", align_corners=False).sum(2)
