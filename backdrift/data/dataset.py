"""A data set in memory: its training and test samples, and its card."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.fingerprint import Fingerprint
from backdrift.data.moments import moments, standard_deviation
from backdrift.data.record import Record
from backdrift.data.units import Units


class Data:
    """Training and test samples v in their own units, and what is known of them.

    It is the `Source` of its training samples: `len(data)` of them, which `records` gives by number.

    Args:
        train: samples v, `[n, ...]`, of any dtype.
        test: samples held back, of the same shape each.
        train_labels: a class 0, 1, … for each sample, `[n]`, or None.
        test_labels: the same for the test set.
        levels: how many values a component takes, or None for continuous data.
        name: what the set is called in messages and reports.
        columns: the names of the components of vectors.
        class_names: the names of the classes; by default their numbers.
        fingerprint: of the files that the samples were read from.

    Attributes:
        units: the map between v and the model's x.
        std: standard deviation of x over all samples and components, which preconditioning asks for.
        classes: number of classes, 0 without labels.

    Raises:
        ValueError: where there is nothing to learn from: an empty set, NaN or inf, values that are not whole numbers
            in 0..levels-1, shapes that differ, labels or names that do not fit.
    """

    def __init__(
        self,
        train: Tensor,
        test: Tensor,
        train_labels: Tensor | None = None,
        test_labels: Tensor | None = None,
        levels: int | None = None,
        name: str = "data",
        columns: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        if levels is not None and levels < 2:
            raise ValueError(f"levels={levels}: expected at least 2, or null for continuous data")
        if train.ndim < 2 or train.shape[1:] != test.shape[1:]:
            raise ValueError(
                f"{name}: expected samples [n, ...], got train {list(train.shape)} and test {list(test.shape)}"
            )
        for split, values, labels in (("train", train, train_labels), ("test", test, test_labels)):
            _check_samples(name, split, values, levels)
            if labels is not None and (labels.shape != (len(values),) or labels.min() < 0):
                raise ValueError(f"{name}: expected {len(values)} {split} labels 0, 1, …, got {list(labels.shape)}")
        if bool((train == train[:1]).all()):
            raise ValueError(f"{name}: all training samples are the same; there is nothing to learn")
        self.name, self.fingerprint = name, fingerprint
        self.train, self.test = train, test
        self.train_labels, self.test_labels = train_labels, test_labels
        self.classes = 0 if train_labels is None else int(train_labels.max()) + 1
        self.columns = _named(name, "columns", columns, train.shape[1] if train.ndim == 2 else 0)
        self.class_names = _named(name, "class_names", class_names, self.classes)
        if self.class_names is None and self.classes:
            self.class_names = tuple(map(str, range(self.classes)))
        shape = tuple(train.shape[1:])
        try:
            self.units = Units.standardising(train) if levels is None else Units.of_levels(shape, levels)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self.std = standard_deviation(train, self.units)
        if not 0 < self.std < math.inf:
            largest = float(train.abs().max())
            raise ValueError(f"{name}: values up to {largest:.2g} are too small to square; rescale them")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.units.shape

    @property
    def levels(self) -> int | None:
        """How many values a component takes, or None for continuous data."""
        return self.units.levels

    @functools.cached_property
    def card(self) -> DataCard:
        """What is known of the data set without its samples."""
        mean, variance = moments(self.train, self.units)
        return DataCard(
            name=self.name,
            units=self.units,
            samples=len(self.train),
            std=self.std,
            mean=mean,
            variance=variance,
            columns=self.columns,
            classes=self.class_names,
            fingerprint=self.fingerprint,
        )

    def __len__(self) -> int:
        """Number of training samples."""
        return len(self.train)

    def records(self, indices: Tensor) -> Record:
        """The training samples with numbers `indices`, `[batch]`, their labels as the condition."""
        labels = self.train_labels
        return Record(self.train[indices], None if labels is None else labels[indices], None, indices)

    def to_model(self, values: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x for samples v: `units.to_model`."""
        return self.units.to_model(values, generator)

    def to_data(self, x: Tensor) -> Tensor:
        """v for x: `units.to_data`."""
        return self.units.to_data(x)

    def __repr__(self) -> str:
        kind = "continuous" if self.levels is None else f"{self.levels} levels"
        return f"{self.name}: {len(self.train)} train, {len(self.test)} test, shape {list(self.shape)}, {kind}"


def _check_samples(name: str, split: str, values: Tensor, levels: int | None) -> None:
    """Raise `ValueError` unless there are samples of finite values, whole numbers where there are levels."""
    if len(values) < 2 or values[0].numel() == 0:
        raise ValueError(f"{name}: the {split} set has {len(values)} samples of shape {list(values.shape[1:])}")
    bad = ~values.flatten(1).isfinite().all(1)
    if bool(bad.any()):
        raise ValueError(
            f"{name}: {int(bad.sum())} of {len(values)} {split} samples hold NaN or inf, "
            f"the first is number {int(bad.nonzero()[0])}: remove or fill them first"
        )
    if levels is None:
        return
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > levels - 1 or not bool((values == values.round()).all()):
        raise ValueError(
            f"{name}: expected whole numbers from 0 to {levels - 1} ({levels} levels), got {split} values "
            f"from {low:.4g} to {high:.4g}"
        )


def _named(name: str, what: str, names: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """Names as a tuple; `ValueError` unless there is one for each of `count`."""
    if names is not None and len(names) != count:
        raise ValueError(f"{name}: {what}: expected {count} names, got {len(names)}")
    return None if names is None else tuple(names)
