"""Samples that stay on disk and are read by their numbers: an array, or a folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from backdrift.data.arrays import DAMAGED
from backdrift.data.fingerprint import visible_files
from backdrift.data.image_file import read_image
from backdrift.data.images import IMAGES, classes_of_folders
from backdrift.data.layout import layout_of


class Stored(Protocol):
    """Numbered samples on disk.

    Attributes:
        levels: how many values a component takes, or None for continuous samples.
        labels: the name or the number of the class of each sample, `[n]`, or None.
        notes: what was assumed or left out, in words for the user.
    """

    @property
    def levels(self) -> int | None: ...

    @property
    def labels(self) -> np.ndarray | None: ...

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

    Raises:
        ValueError: if a file is damaged or does not hold numbers, or the two do not fit.
    """

    def __init__(self, path: Path, layout: str | None = None, labels: Path | None = None) -> None:
        self.path = path
        array = _mapped(path)
        if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"path={path}: expected numbers [n, ...] with at least two axes, got {array.dtype} {list(array.shape)}"
            )
        is_bytes = array.dtype == np.uint8
        self._n = len(array)
        self.layout = layout_of(array.shape, is_bytes, layout)
        self.levels = 256 if is_bytes and array.ndim in (3, 4) else None
        self.notes = [self.layout.note] if self.layout.note else []
        self.labels = None if labels is None else np.array(_mapped(labels))
        if self.labels is not None and self.labels.shape != (len(array),):
            raise ValueError(f"labels={labels}: expected [{len(array)}], got {list(self.labels.shape)}")

    def __len__(self) -> int:
        return self._n

    def read(self, numbers: np.ndarray) -> np.ndarray:
        # In the order of the file, which disks read faster. The pages that were read are let go with the map.
        order = np.argsort(numbers)
        rows = _mapped(self.path)[numbers[order]]
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

    Raises:
        ValueError: if there are no images, or some lie beside the folders of classes.
    """

    levels = 256

    def __init__(self, folder: Path, size: int | None = None, workers: int = 4) -> None:
        found = visible_files(folder)
        self.folder, self.size = folder, size
        self.files = [file for file in found if file.suffix.lower() in IMAGES]
        if not self.files:
            raise ValueError(f"path={folder}: found no images in the folder")
        left = len(found) - len(self.files)
        self.notes = [f"files that are no images and are left out: {left}"] if left else []
        self.labels = classes_of_folders(folder, self.files)
        first = read_image(self.files[0], size, Counter())
        self.height_width, self.grey = first.shape[:2], first.ndim == 2
        self.threads = ThreadPoolExecutor(workers)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Bytes `[batch, channels, height, width]`.

        Raises:
            ValueError: naming the file, if it cannot be read, has another size, or has colours and the first has none.
        """
        pictures = np.stack(list(self.threads.map(self._one, numbers.tolist())))
        return pictures[:, None] if self.grey else np.moveaxis(pictures, -1, 1)

    def _one(self, number: int) -> np.ndarray:
        file = self.files[number]
        try:
            picture = read_image(file, self.size, Counter())
        except ValueError as error:
            raise ValueError(f"path={self.folder}: {error}") from error
        if picture.shape[:2] != self.height_width:
            (height, width), (other, wide) = self.height_width, picture.shape[:2]
            raise ValueError(
                f"path={self.folder}: {self.files[0].name} is {width}x{height} and {file.name} is {wide}x{other}; "
                f"data.size={min(height, width, wide, other)} scales and crops all of them"
            )
        if self.grey and picture.ndim == 3:
            raise ValueError(f"path={self.folder}: {self.files[0].name} is grey and {file.name} has colours")
        return picture if self.grey or picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)


def _mapped(path: Path) -> np.ndarray:
    """An array of a .npy file, of which nothing is read yet.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: there is no such file")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise ValueError(f"path={path}: not a whole .npy file of numbers ({error})") from error
