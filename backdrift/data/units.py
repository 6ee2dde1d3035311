"""The units of a data set, and the map to the units that a model works in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.data.outliers import Outliers, range_of
from backdrift.data.transform import Transform

MOST_LEVELS = 65536
"""Discrete data have at most so many levels, those of 16 bits: the moments count each of them."""


@dataclass(frozen=True, eq=False)
class Units:
    """The map between a data set's own units v and the units x that a model works in.

    Discrete data (pictures) are whole numbers v in 0, 1, …, levels - 1. They are dequantised afresh on each call
    (Theis et al. 2016) and scaled to [-1, 1]:

        x = 2 (v + u)/levels - 1,    u uniform on [0, 1) for each component.

    Continuous data are shifted and scaled:

        x = (h(v) - shift)/scale,

    where h is v itself, or the map of each column by `transform`. A log-density of x becomes a log-density of v (of
    v + u for discrete data) by adding `log_jacobian(v)`.

    Args:
        shape: of one sample; `[channels, height, width]` for pictures.
        levels: how many values a component takes, or None for continuous data.
        shift: float64, one number for each feature of vectors, otherwise one number for all components.
        scale: positive, of the same shape as `shift`.
        low, high: the smallest and the largest training value v, which pictures are drawn black and white at. Rare
            outliers are left out.
        transform: the monotone maps h of the columns of vectors, or None if they stay as they are.

    Raises:
        ValueError: if the shapes do not fit, or a number is not finite or a scale not positive.
    """

    shape: tuple[int, ...]
    levels: int | None
    shift: Tensor
    scale: Tensor
    low: float
    high: float
    transform: Transform | None = None

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape: expected lengths of at least 1, got {list(self.shape)}")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels: expected at least 2, or null for continuous data, got {self.levels}")
        if self.levels is not None and self.levels > MOST_LEVELS:
            raise ValueError(f"levels: expected at most {MOST_LEVELS}, got {self.levels}")
        for name, value in (("shift", self.shift), ("scale", self.scale)):
            if value.ndim > 1 or (value.ndim == 1 and value.shape != self.shape):
                raise ValueError(f"{name}: expected one number, or {self.shape[0]}, got shape {list(value.shape)}")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name}: expected finite numbers, got NaN or inf")
        if not bool((self.scale > 0).all()):
            raise ValueError("scale: expected positive numbers")
        if self.transform is not None and (self.levels is not None or (len(self.transform.maps),) != self.shape):
            raise ValueError(
                f"transform: expected a map for each of the columns of continuous vectors {list(self.shape)}, got "
                f"{len(self.transform.maps)}"
            )

    @classmethod
    def of_levels(cls, shape: tuple[int, ...], levels: int) -> Units:
        """The units of discrete data with so many levels: [0, levels] becomes [-1, 1]."""
        half = torch.tensor(0.5 * levels)
        return cls(shape, levels, half, half, 0.0, float(levels - 1))

    @classmethod
    def standardising(
        cls, train: Tensor, outliers: Sequence[Outliers] = (), transform: Transform | None = None
    ) -> Units:
        """The units in which continuous training samples `[n, ...]` have mean 0 and variance 1.

        Every feature of vectors has its own mean and variance; pictures and series have one for all components.
        A constant feature keeps its scale, since it has no spread to divide by. A feature with rare outliers has the
        median as its shift and the spread of its bulk as its scale, since a single value would set its variance, unless
        it is mapped.

        Args:
            train: samples v, `[n, ...]`.
            outliers: what `find_outliers` says of them.
            transform: what `fit_transform` says of them: the values have mean 0 and variance 1 after the map.

        Raises:
            ValueError: if values are so large that their variance is not finite.
        """
        values = train.double()  # a large mean must not eat the digits of a small spread
        values = values if transform is None else transform.forward(values)
        axes = (0,) if values.ndim == 2 else tuple(range(values.ndim))
        shift, spread = values.mean(axes), values.std(axes)
        scale = torch.where(spread > 1e-12 * shift.abs(), spread, torch.ones_like(spread))
        for found in outliers:
            if found.rare and not (transform is not None and found.feature in transform.mapped):
                feature = ... if found.feature is None else found.feature
                shift[feature], scale[feature] = found.median, found.spread
        if not bool(scale.isfinite().all()):
            raise ValueError(f"values up to {float(values.abs().max()):.2g} are too large to square; rescale them")
        return cls(tuple(train.shape[1:]), None, shift, scale, *range_of(train, outliers), transform)

    @property
    def dim(self) -> int:
        """Number of components of a sample."""
        return math.prod(self.shape)

    @property
    def is_picture(self) -> bool:
        """Whether a sample can be drawn as a picture. It then has one or three channels, a height and a width."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    def log_jacobian(self, values: Tensor) -> Tensor:
        """log |dx/dv| of each sample v, `[batch]` in nats and float64: log p(v) = log p(x) + log_jacobian(v).

        It is the same for all samples unless columns are mapped. For discrete data log p(v) is that of v + u. Its mean
        over u is at most the log-probability of the level.

        Args:
            values: v, `[batch, ...]`.
        """
        constant = -float(self.scale.double().log().expand(self.shape).sum())
        if self.transform is None:
            return torch.full((len(values),), constant, dtype=torch.float64, device="cpu")
        return self.transform.log_slope(values.cpu()) + constant

    def standardised(self, values: Tensor) -> Tensor:
        """(h(v) - shift)/scale in float64 for samples v `[batch, ...]`: x of continuous data before it is rounded."""
        values = values.double()
        values = values if self.transform is None else self.transform.forward(values)
        return (values - self.shift.to(values)) / self.scale.to(values)

    def to_model(self, values: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x as float32 for samples v.

        Args:
            values: v, `[batch, ...]`, of any dtype.
            generator: of u, for discrete data.
        """
        if self.levels is not None:
            noise = torch.rand(values.shape, generator=generator, device=values.device)
            return (values.to(noise.dtype) + noise) * (2 / self.levels) - 1
        if values.device.type != "mps":
            return self.standardised(values).float()
        if self.transform is not None:  # such a device has no float64
            return self.standardised(values.cpu()).float().to(values.device)
        return ((values - self.shift.to(values)) / self.scale.to(values)).float()

    def to_data(self, x: Tensor) -> Tensor:
        """v for x `[batch, ...]`.

        Continuous data are float64, as float32 would round a small spread about a large mean to a few values. (A device
        of Apple's has no float64: there the result is on the CPU.) For discrete data v is the level that x falls in, in
        the dtype of x.
        """
        if self.levels is not None:
            return (x * self.scale.to(x) + self.shift.to(x)).floor().clamp(0, self.levels - 1)
        values = (x.cpu() if x.device.type == "mps" else x).double()
        values = values * self.scale.to(values) + self.shift.to(values)
        return values if self.transform is None else self.transform.inverse(values)

    def to_pixels(self, x: Tensor) -> Tensor:
        """x `[batch, ...]` as brightness in [0, 1], for drawing, in the dtype of x.

        Raises:
            ValueError: if the samples are not pictures.
        """
        if not self.is_picture:
            raise ValueError(f"x: expected pictures of 1 or 3 channels, got samples of shape {list(self.shape)}")
        if self.levels is not None:
            return self.to_data(x) / (self.levels - 1)
        return ((self.to_data(x) - self.low) / (self.high - self.low)).clamp(0, 1).to(x.dtype)
