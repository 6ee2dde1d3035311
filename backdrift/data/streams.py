"""Data sets that do not fit into memory: the samples of a batch are read when a step asks for them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.checks import check_exists
from backdrift.data.conditions import Conditions
from backdrift.data.dataset import Data
from backdrift.data.fingerprint import fingerprint as fingerprint_of
from backdrift.data.labels import encode
from backdrift.data.record import Record
from backdrift.data.stored import Stored, StoredArray, StoredImages
from backdrift.data.units import MOST_LEVELS
from backdrift.data.weights import loss_weights
from backdrift.sde.arguments import checked
from backdrift.sde.value_types import Filled, Range, Seed

MEASURED = 4096
"""Training samples, the first ones of the seeded order, by which shift, scale and moments are measured."""


HeldBack = Annotated[int, Range(least=2, most=1_000_000)]
"""How many samples are held back for tests. They are kept in memory."""

ImageSize = Annotated[int, Range(least=1, most=65_536)]
"""Pixels of the height and width of images."""

Workers = Annotated[int, Range(least=1, most=256)]
"""Threads that read at once."""


class StoredData(Data):
    """Samples that stay on disk. Memory holds the test set, 4,096 training samples, and a number for each sample.

    A seeded order of all samples gives the test set first and then the training set. The first 4,096 training samples
    of this order are `train`: the units and the moments are those of them, and pictures and distances in reports use
    them. Each batch of a training is read from the files, so that a wrong value is found when it is read.

    The order of a training is a function of its seed and of the step. It goes on with the same samples after an
    interruption, and each of several processes reads its own share.

    Args:
        stored: the samples, which are read by their numbers.
        found: where they are.
        test: how many samples are held back. They are kept in memory.
        seed: of the order of all samples.
        levels: how many values 0, 1, … a component takes, in place of what `stored` says.
        fingerprint: "quick" for names, sizes and times of the files, "full" for their contents as well.

    Attributes:
        numbers: the place of each training sample in the files, `[n]`.

    Raises:
        ValueError: if there are too few samples, a weight is negative or not finite, or what `Data` raises.
    """

    def __init__(
        self,
        stored: Stored,
        found: Path,
        test: int,
        seed: int,
        levels: int | None,
        fingerprint: Literal["quick", "full"],
    ) -> None:
        self.stored = stored
        for note in self.stored.notes:
            print(f"data: {found.name}: {note}")
        n = len(self.stored)
        if n < test + 2:
            raise ValueError(f"test={test}: expected at most {n - 2}, since {found} holds {n} samples")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")
        held, self.numbers = order[:test], order[test:]
        names = self.stored.class_names
        labels, source = self.stored.labels, self.stored.labels_source
        encoded = None if labels is None else encode(labels, None, source, names)
        self._labels = None if encoded is None else encoded.train
        self._weights = None if self.stored.weights is None else loss_weights(self.stored.weights, n)
        measured = self.numbers[:MEASURED]
        name, of = found.stem, levels if levels is not None else self.stored.levels
        first, kept = self._read(measured), self._read(held)
        for sample, numbers in ((first, measured), (kept, held)):
            _check_values(name, sample, numbers, of)
        super().__init__(
            first,
            kept,
            None if self._labels is None else self._labels[measured],
            None if self._labels is None else self._labels[held],
            of,
            name,
            self.stored.columns,
            class_names=None if encoded is None else encoded.names,
            fingerprint=fingerprint_of(found, fingerprint),
        )

    def __len__(self) -> int:
        """Number of training samples, of which `train` holds the first."""
        return len(self.numbers)

    def records(self, indices: Tensor) -> Record:
        """The training samples with numbers `indices`, `[batch]`, read from the files, with their labels.

        Raises:
            ValueError: if a sample holds NaN, inf or a level that there is not, or its file cannot be read.
        """
        numbers = self.numbers[indices]
        sample = self._read(numbers)
        _check_values(self.name, sample, numbers, self.levels)
        labels, weights = (None if each is None else each[numbers] for each in (self._labels, self._weights))
        return Record(sample, labels, weights, indices)

    @functools.cached_property
    def card(self) -> DataCard:
        """What is known of the data set without its samples. Moments are those of `train`."""
        return replace(super().card, samples=len(self))

    def conditioned_on(self, conditions: Conditions) -> Data:
        """Refused: the conditions of a stream are its classes.

        Raises:
            ValueError: always.
        """
        raise ValueError("condition: expected none or label for data that stay on disk, got vectors or pictures")

    def conditioned_on_columns(self, numbers: Sequence[int]) -> Data:
        """Refused, as `conditioned_on` is.

        Raises:
            ValueError: always.
        """
        raise ValueError("condition: expected none or label for data that stay on disk, got columns")

    def _read(self, numbers: Tensor) -> Tensor:
        return torch.from_numpy(np.require(self.stored.read(numbers.numpy()), requirements=["C", "W"]))

    def __repr__(self) -> str:
        kind = "continuous" if self.levels is None else f"{self.levels} levels"
        return f"{self.name}: {len(self)} train on disk, {len(self.test)} test, shape {list(self.shape)}, {kind}"


def _check_values(name: str, sample: Tensor, numbers: Tensor, levels: int | None) -> None:
    """Refuse samples `[n, ...]` that do not hold finite numbers, or levels that there are.

    Args:
        name: of the data set.
        sample: what was read.
        numbers: its places in the files, from 0, `[n]`.
        levels: how many values a component takes, or None for continuous samples.

    Raises:
        ValueError: which names the first of them by its number in the files, from 1.
    """
    flat = sample.flatten(1)
    wrong = ~flat.isfinite().all(1)
    if levels is not None:
        least, most = (value.double() for value in flat.aminmax(dim=1))  # 256 itself is no byte
        wrong |= (least < 0) | (most >= levels)
        if flat.is_floating_point():
            wrong |= (flat != flat.round()).any(1)
    if bool(wrong.any()):
        expected = "finite numbers" if levels is None else f"whole numbers from 0 to {levels - 1}"
        place = int(numbers[wrong].min())
        raise ValueError(f"{name}: sample number {place + 1} of the files: expected {expected}")


class Stream(StoredData):
    """A .npy array `[n, ...]`, or a folder of images with a subfolder for each class, which stays on disk.

    Args:
        path: the array or the folder.
        test, seed, fingerprint: see `StoredData`.
        labels: of an array: a .npy array with the class of each sample; null for none.
        weights: a .npy array that says how much each sample counts in the loss; null if each counts 1. Images are in
            the order of their paths.
        levels: how many values 0, 1, … a component takes; by default 256 for pictures of bytes, otherwise continuous.
        layout: of an array: "channels_first" or "channels_last"; by default see `layout.layout_of`.
        size: of images: the height and width they are scaled and cropped to, see `image_file.read_image`.
        workers: of images: threads that read them.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if the files are damaged, an argument does not concern them, or what `StoredData` raises.
    """

    path_keys = ("path", "labels", "weights")

    @checked
    def __init__(
        self,
        path: Annotated[str | int | Path, Filled("text")],
        test: HeldBack = 1024,
        seed: Seed = 0,
        labels: Annotated[str, Filled("text")] | None = None,
        levels: Annotated[int, Range(least=2, most=MOST_LEVELS)] | None = None,
        layout: Literal["channels_first", "channels_last"] | None = None,
        size: ImageSize | None = None,
        workers: Workers = 4,
        fingerprint: Literal["quick", "full"] = "quick",
        weights: Annotated[str, Filled("text")] | None = None,
    ) -> None:
        found = Path(str(path)).expanduser()
        stored = _open(found, labels, layout, size, workers, weights)
        super().__init__(stored, found, test, seed, levels, fingerprint)
        for beside in (labels, weights):
            if beside is not None:
                self.also_of(Path(beside).expanduser())


def _open(
    path: Path, labels: str | None, layout: str | None, size: int | None, workers: int, weights: str | None
) -> Stored:
    """The samples at a path.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if it is neither an array nor a folder, or an argument does not concern it.
    """
    check_exists(path)
    counts = None if weights is None else Path(weights).expanduser()
    if path.is_dir():
        for name, value in (("labels", labels), ("layout", layout)):
            if value is not None:
                raise ValueError(f"{name}={value}: expected null for a folder of images, {path}")
        return StoredImages(path, size, workers, counts)
    if path.suffix != ".npy":
        raise ValueError(f"path={path}: expected a .npy array or a folder of images, which can be read in parts")
    if size is not None:
        raise ValueError(f"size={size}: expected null for an array, {path}")
    return StoredArray(path, layout, None if labels is None else Path(labels).expanduser(), counts)
