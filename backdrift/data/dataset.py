"""A data set in memory: its splits, its own units, and the map to the units the model works in."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Data:
    """Training and test samples, and the map between the data's own units v and the model's x.

    Discrete data (pictures) are whole numbers v in 0..levels-1, dequantised afresh on each call
    (Theis et al. 2016) and scaled to [-1, 1]:

        x = 2 (v + u)/levels - 1,    u uniform on [0, 1) for each component;

    continuous data are standardised by the training set, x = (v - shift)/scale. A density of x
    becomes one of v (of v + u) by adding `log_jacobian`.

    Args:
        train: samples v, `[n, ...]`, of any dtype.
        test: samples held back, of the same shape each.
        train_labels: a class 0..k-1 for each sample, `[n]`, or None.
        test_labels: the same for the test set.
        levels: number of values a component takes, or None for continuous data.
        name: what the set is called in messages and reports.

    Attributes:
        shape: of one sample; `[channels, height, width]` for pictures.
        shift, scale: continuous data: for each feature of vectors, one number otherwise.
        std: standard deviation of x over all samples and components, what preconditioning asks for.
        classes: number of classes, 0 without labels.

    Raises:
        ValueError: where there is nothing to learn from: an empty set, NaN or inf, values that are not
            whole numbers in 0..levels-1, shapes that differ, labels that do not fit.
    """

    def __init__(
        self,
        train: Tensor,
        test: Tensor,
        train_labels: Tensor | None = None,
        test_labels: Tensor | None = None,
        levels: int | None = None,
        name: str = "data",
    ) -> None:
        if levels is not None and levels < 2:
            raise ValueError(f"levels={levels}: expected at least 2, or null for continuous data")
        if train.ndim < 2 or train.shape[1:] != test.shape[1:]:
            raise ValueError(
                f"{name}: expected samples [n, ...], got train {list(train.shape)} and test {list(test.shape)}"
            )
        for split, values, labels in (("train", train, train_labels), ("test", test, test_labels)):
            if len(values) < 2 or values[0].numel() == 0:
                raise ValueError(f"{name}: the {split} set has {len(values)} samples of shape {list(values.shape[1:])}")
            bad = ~values.flatten(1).isfinite().all(1)
            if bool(bad.any()):
                raise ValueError(
                    f"{name}: {int(bad.sum())} of {len(values)} {split} samples hold NaN or inf, "
                    f"the first is number {int(bad.nonzero()[0])}: remove or fill them first"
                )
            if labels is not None and (labels.shape != (len(values),) or labels.min() < 0):
                raise ValueError(f"{name}: expected {len(values)} {split} labels 0, 1, …, got {list(labels.shape)}")
            if levels is not None:
                low, high = float(values.min()), float(values.max())
                if low < 0 or high > levels - 1 or not bool((values == values.round()).all()):
                    raise ValueError(
                        f"{name}: expected whole numbers from 0 to {levels - 1} ({levels} levels), got {split} values "
                        f"from {low:.4g} to {high:.4g}"
                    )
        self.name, self.levels = name, levels
        self.train, self.test = train, test
        self.train_labels, self.test_labels = train_labels, test_labels
        self.shape = tuple(train.shape[1:])
        self.classes = 0 if train_labels is None else int(train_labels.max()) + 1
        if levels is None:
            values = train.double()  # a large mean must not eat the digits of a small spread
            axes = (0,) if values.ndim == 2 else tuple(range(values.ndim))
            shift, scale = values.mean(axes), values.std(axes)
            # A constant feature stays as it is: it has no spread to divide by.
            self.shift, self.scale = shift, torch.where(scale > 1e-12 * shift.abs(), scale, torch.ones_like(scale))
            self.std = float(((values - self.shift) / self.scale).std())
        else:
            self.shift, self.scale = torch.tensor(0.5 * levels), torch.tensor(0.5 * levels)
            counts = torch.bincount(train.flatten().int(), minlength=levels).double()
            share, level = counts / counts.sum(), torch.arange(levels, dtype=torch.float64)
            variance = float((share * (level - (share * level).sum()).square()).sum())
            self.std = 2 / levels * math.sqrt(variance + 1 / 12)  # of the levels and of u
        if bool((train == train[:1]).all()):
            raise ValueError(f"{name}: all training samples are the same; there is nothing to learn")
        if not 0 < self.std < math.inf:
            largest = float(train.abs().max())
            raise ValueError(f"{name}: values up to {largest:.2g} are too large or too small to square; rescale them")

    @property
    def dim(self) -> int:
        """Number of components of a sample."""
        return math.prod(self.shape)

    @property
    def is_picture(self) -> bool:
        """Whether a sample can be drawn: one or three channels of a height and a width."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    @property
    def log_jacobian(self) -> float:
        """log |dx/dv| of a whole sample, in nats: log p(v) = log p(x) + log_jacobian.

        For discrete data log p(v) is of v + u; its mean over u bounds the log-probability of the level from below.
        """
        return -float(self.scale.log().expand(self.shape).sum())

    def to_model(self, values: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x, float32, for samples v `[batch, ...]` of the set; u comes from `generator`."""
        if self.levels is not None:
            noise = torch.rand(values.shape, generator=generator, device=values.device)
            return (values.to(noise.dtype) + noise) * (2 / self.levels) - 1
        if values.device.type != "mps":
            values = values.double()
        return ((values - self.shift.to(values)) / self.scale.to(values)).float()

    def to_data(self, x: Tensor) -> Tensor:
        """v for x `[batch, ...]`: the level it falls in for discrete data, in the dtype of x."""
        values = x * self.scale.to(x) + self.shift.to(x)
        return values if self.levels is None else values.floor().clamp(0, self.levels - 1)

    def to_pixels(self, x: Tensor) -> Tensor:
        """x as brightness in [0, 1], for drawing.

        Raises:
            ValueError: if the samples are not pictures.
        """
        if not self.is_picture:
            raise ValueError(f"{self.name}: samples of shape {list(self.shape)} are not pictures")
        if self.levels is not None:
            return self.to_data(x) / (self.levels - 1)
        low, high = float(self.train.min()), float(self.train.max())
        return ((self.to_data(x) - low) / (high - low)).clamp(0, 1)

    def __repr__(self) -> str:
        kind = "continuous" if self.levels is None else f"{self.levels} levels"
        return f"{self.name}: {len(self.train)} train, {len(self.test)} test, shape {list(self.shape)}, {kind}"


def split(
    values: Tensor, labels: Tensor | None, test: float, seed: int, name: str = "data"
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Hold back a fraction `test` of the samples, drawn by `seed`: train, test and their labels.

    Raises:
        ValueError: if `test` is not between 0 and 1, a part would hold fewer than two samples, or a label is missing.
    """
    if not 0 < test < 1:
        raise ValueError(f"test={test}: expected a fraction of the samples between 0 and 1")
    if labels is not None and len(labels) != len(values):
        raise ValueError(f"{name}: expected a label for each of {len(values)} samples, got {len(labels)}")
    held = round(test * len(values))
    if min(held, len(values) - held) < 2:
        raise ValueError(f"{name}: too few samples ({len(values)}) to hold back a test fraction of {test}")
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    rest, kept = order[held:], order[:held]
    if labels is None:
        return values[rest], values[kept], None, None
    return values[rest], values[kept], labels[rest], labels[kept]
