"""Samples that stay on disk and are read by their numbers: an array, or a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from backdrift.data.arrays import load_npy
from backdrift.data.fingerprint import visible_files
from backdrift.data.images import IMAGES, classes_of_folders
from backdrift.data.layout import layout_of
from backdrift.data.pictures import Pictures
from backdrift.data.weights import read_weights


class Stored(Protocol):
    """Numbered samples on disk.

    Attributes:
        levels: how many values a component takes, or None for continuous samples.
        labels: the name or the number of the class of each sample, `[n]`, or None.
        labels_source: where the labels are from, in messages.
        class_names: the names of the classes 0, 1, …, where the labels are their numbers; or None.
        weights: how much each sample counts in the loss, `[n]`, or None if each counts 1.
        columns: the names of the components of vectors, or None.
        notes: what was assumed or left out, in words for the user.
    """

    @property
    def levels(self) -> int | None: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def labels_source(self) -> str: ...

    @property
    def class_names(self) -> Sequence[str] | None: ...

    @property
    def weights(self) -> np.ndarray | None: ...

    @property
    def columns(self) -> Sequence[str] | None: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The samples of these numbers, in their order: bytes, or float64, `[batch, ...]` with the channels first."""
        ...


class StoredArray:
    """A .npy array `[n, ...]`, which is mapped into memory for each batch and let go after it.

    Args:
        path: the file.
        layout: where the channels are, see `layout.layout_of`.
        labels: a .npy array with the class of each sample, `[n]`, or None.
        weights: a .npy array that says how much each sample counts, `[n]`, or None.

    Raises:
        ValueError: if a file is damaged or does not hold numbers, or the two do not fit.
    """

    class_names, columns = None, None

    def __init__(
        self, path: Path, layout: str | None = None, labels: Path | None = None, weights: Path | None = None
    ) -> None:
        self.path = path
        array = load_npy(path, mapped=True)
        if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"path={path}: expected numbers [n, ...] with at least two axes, got {array.dtype} {list(array.shape)}"
            )
        is_bytes = array.dtype == np.uint8
        self._n = len(array)
        self.layout = layout_of(array.shape, is_bytes, layout)
        self.levels = 256 if is_bytes and array.ndim in (3, 4) else None
        self.notes = [self.layout.note] if self.layout.note else []
        self.labels = None if labels is None else np.array(load_npy(labels, "labels", mapped=True))
        self.labels_source = f"labels={labels}"
        if self.labels is not None and self.labels.shape != (len(array),):
            raise ValueError(
                f"labels={labels}: expected a class for each of the {len(array)} samples, got shape "
                f"{list(self.labels.shape)}"
            )
        self.weights = None if weights is None else read_weights(weights)

    def __len__(self) -> int:
        return self._n

    def read(self, numbers: np.ndarray) -> np.ndarray:
        # In the order of the file, which disks read faster. The pages that were read are let go with the map.
        order = np.argsort(numbers)
        rows = load_npy(self.path, mapped=True)[numbers[order]]
        values = np.empty_like(rows)
        values[order] = rows
        values = self.layout.apply(values)
        return values if values.dtype == np.uint8 else values.astype(np.float64)


class StoredImages:
    """A folder of images of one size, read by several threads. Its subfolders are classes, if it has any.

    Args:
        folder: where the images are.
        size: see `read_image`; by default all images have the size of the first.
        workers: threads that read at once.
        weights: as of `StoredArray`, in the order of the paths.

    Raises:
        ValueError: if there are no images, or some lie beside the folders of classes.
    """

    levels, columns, class_names = 256, None, None

    def __init__(self, folder: Path, size: int | None = None, workers: int = 4, weights: Path | None = None) -> None:
        found = visible_files(folder)
        self.files = [file for file in found if file.suffix.lower() in IMAGES]
        if not self.files:
            raise ValueError(f"path={folder}: found no images in the folder")
        left = len(found) - len(self.files)
        self.notes = [f"files that are no images and are left out: {left}"] if left else []
        self.labels, self.labels_source = classes_of_folders(folder, self.files), f"path={folder}"
        self.weights = None if weights is None else read_weights(weights)
        self.pictures = Pictures(folder, lambda number: (self.files[number], None), size, workers)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        return self.pictures.read(numbers)
