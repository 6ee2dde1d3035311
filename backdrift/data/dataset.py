"""A data set in memory: its training and test samples, and its card."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.checks import (
    check_labels,
    check_levels,
    check_magnitude,
    check_samples,
    check_shapes,
    check_spread,
    names_of,
)
from backdrift.data.conditions import Conditions
from backdrift.data.fingerprint import Fingerprint
from backdrift.data.moments import moments, standard_deviation
from backdrift.data.outliers import Outliers, find_outliers, rows_of_bulk
from backdrift.data.record import Record
from backdrift.data.transform import Transform
from backdrift.data.transform_fit import fit_transform
from backdrift.data.units import Units

TRANSFORMS = ("auto", "none")
"""What may be asked for: a map for each column of vectors that has heavy tails, skewness or outliers, or none."""


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
        transform: "auto" for a monotone map of each column of continuous vectors that has heavy tails, skewness or
            outliers, see `fit_transform`; "none" for no maps. Other samples never have maps.

    Attributes:
        units: the map between v and the model's x.
        std: standard deviation of x over all samples and components, which preconditioning asks for. Rare outliers are
            left out.
        classes: number of classes, 0 without labels.
        conditions: the vectors or pictures that the samples are conditioned on, or None.
        labels_are_conditions: whether the classes are what a network is to be conditioned on.
        train_weights: how much each training sample counts in the loss, `[n]`, or None if each counts 1.
        order: the numbers of the training and of the test samples in the files that they were read from, `[n]` each, or
            None where there are no files.
        places: where the files hold each sample, in their order: the row of a table or the path of an image, or None.

    Raises:
        ValueError: where there is nothing to learn from: an empty set, NaN or inf, a column of one value, values that
            are not whole numbers in 0..levels-1, shapes that differ, labels or names that do not fit; or for an unknown
            `transform`.
    """

    path_keys: tuple[str, ...] = ("path",)
    """Arguments that name files. A run keeps them as absolute paths, so that it can be read from other folders."""

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
        transform: str = "none",
    ) -> None:
        if transform not in TRANSFORMS:
            raise ValueError(f"transform={transform}: expected {' or '.join(TRANSFORMS)}")
        check_levels(name, train, levels)
        check_shapes(name, train, test)
        for split, values in (("train", train), ("test", test)):
            check_samples(name, split, values, levels)
        check_labels(name, {"train": train, "test": test}, {"train": train_labels, "test": test_labels})
        self.name, self.fingerprint = name, fingerprint
        self.conditions: Conditions | None = None
        self.labels_are_conditions = False
        self.order: tuple[Tensor, Tensor] | None = None
        self.places: tuple[int | str, ...] | None = None
        self._told: list[str] = []
        self.train, self.test = train, test
        self.train_labels, self.test_labels = train_labels, test_labels
        self.train_weights: Tensor | None = None
        self.classes = 0
        if train_labels is not None and test_labels is not None:
            self.classes = int(max(train_labels.max(), test_labels.max())) + 1
            self.classes = self.classes if class_names is None else max(self.classes, len(class_names))
        self.columns = names_of(name, "columns", columns, train.shape[1] if train.ndim == 2 else 0)
        self.class_names = names_of(name, "class_names", class_names, self.classes)
        if self.class_names is None and self.classes:
            self.class_names = tuple(map(str, range(self.classes)))
        self._may_map = transform == "auto" and train.ndim == 2
        self._measure(levels, self._may_map)

    def _measure(self, levels: int | None, may_map: bool, tells: bool = True) -> None:
        """Set the units and the standard deviation; tell of outliers and maps, if it `tells`.

        Raises:
            ValueError: if a column has one value, or values are too large or too small to square.
        """
        name, train = self.name, self.train
        outliers: list[Outliers] = []
        transform: Transform | None = None
        if levels is None:
            check_spread(name, train, self.columns)
            outliers = find_outliers(train)
            transform = fit_transform(train, outliers) if may_map else None
        elif bool((train == train[:1]).all()):
            raise ValueError(f"{name}: all training samples are the same; there is nothing to learn")
        try:
            discrete = None if levels is None else Units.of_levels(tuple(train.shape[1:]), levels)
            self.units = discrete or Units.standardising(train, outliers, transform)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        mapped = [] if transform is None else transform.mapped
        self._set_aside = [found for found in outliers if found.feature not in mapped]
        self.std = standard_deviation(train, self.units, self._set_aside)
        if not 0 < self.std < math.inf:
            largest = float(train.abs().max())
            raise ValueError(f"{name}: values up to {largest:.2g} are too small to square; rescale them")
        if levels is None:
            for split, values in (("training", train), ("test", self.test)):
                check_magnitude(name, split, values, self.units, self.columns)
        if not tells:
            return
        for found in outliers:
            self._tell(f"data: {found.told(name, self.columns, len(train), found.feature in mapped)}")
        if transform is not None and transform.told(self.columns):
            self._tell(f"data: {name}: {transform.told(self.columns)}; data.transform=none leaves them as they are")

    def _tell(self, line: str) -> None:
        """Print a line, unless it has been printed of this data set."""
        if line not in self._told:
            print(line)
        self._told = [*self._told, line]

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
        mean, variance = moments(rows_of_bulk(self.train, self._set_aside), self.units)
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
            conditions=None if self.conditions is None else self.conditions.card,
        )

    def also_of(self, path: Path) -> None:
        """Take another file or folder, which belongs to the samples, into the fingerprint."""
        if self.fingerprint is not None:
            self.fingerprint = self.fingerprint.beside(path)
        self.__dict__.pop("card", None)

    def conditioned_on(self, conditions: Conditions) -> Data:
        """The same data set, with a condition for each sample."""
        other = copy.copy(self)
        other.__dict__.pop("card", None)
        other.conditions = conditions
        return other

    def conditioned_on_labels(self) -> Data:
        """The same data set, with its classes as conditions."""
        other = copy.copy(self)
        other.labels_are_conditions = True
        return other

    def conditioned_on_columns(self, numbers: Sequence[int]) -> Data:
        """A data set of the other columns, which are measured alone, with the columns `numbers` as conditions."""
        rest = [number for number in range(self.shape[0]) if number not in numbers]
        names = None if self.columns is None else [self.columns[number] for number in numbers]
        conditions = Conditions.of(self.train[:, list(numbers)], self.test[:, list(numbers)], self.name, names)
        other = self.conditioned_on(conditions)
        other.train, other.test = self.train[:, rest], self.test[:, rest]
        other.columns = None if self.columns is None else tuple(self.columns[number] for number in rest)
        # What there is to tell of a column was told of the whole table, with its number there.
        other._measure(self.levels, self._may_map, tells=False)
        return other

    @property
    def condition_sizes(self) -> dict[str, int]:
        """The number of classes, the length of vectors and the channels of pictures that are conditions; 0 for none."""
        sizes = {"classes": self.classes if self.labels_are_conditions else 0, "vector": 0, "picture": 0}
        if self.conditions is not None:
            sizes[self.conditions.card.kind] = self.conditions.card.size
        return sizes

    @property
    def test_condition(self) -> Tensor | None:
        """The conditions of the test samples, vectors or pictures in their own units, or classes; None without."""
        return self.test_labels if self.conditions is None else self.conditions.test

    def take_units(self, card: DataCard) -> None:
        """Take the units of another data set, which a model was trained on, for its own.

        They are those of the samples and, where there are any, of the conditions, and the standard deviation.

        Raises:
            ValueError: if a value is too large in these units to be squared.
        """
        if card.units.levels is None:
            for split, values in (("training", self.train), ("test", self.test)):
                check_magnitude(self.name, split, values, card.units, self.columns)
        self.units, self.std = card.units, card.std
        if self.conditions is not None and card.conditions is not None:
            self.conditions = self.conditions._replace(card=card.conditions)
        self.__dict__.pop("card", None)

    def __len__(self) -> int:
        """Number of training samples."""
        return len(self.train)

    def records(self, indices: Tensor) -> Record:
        """The training samples with numbers `indices`, `[batch]`, with their conditions: by default their labels."""
        conditions = self.train_labels if self.conditions is None else self.conditions.train
        condition, weight = (None if each is None else each[indices] for each in (conditions, self.train_weights))
        return Record(self.train[indices], condition, weight, indices)

    def to_model(self, values: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x for samples v: `units.to_model`."""
        return self.units.to_model(values, generator)

    def to_data(self, x: Tensor) -> Tensor:
        """v for x: `units.to_data`."""
        return self.units.to_data(x)

    def __repr__(self) -> str:
        kind = "continuous" if self.levels is None else f"{self.levels} levels"
        return f"{self.name}: {len(self.train)} train, {len(self.test)} test, shape {list(self.shape)}, {kind}"
