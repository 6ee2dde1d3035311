"""Numbered images of one size, read by several threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from backdrift.data.image_file import read_image


class Pictures:
    """Images, each of which is read when it is asked for. The first one says their size, and whether they have colours.

    Args:
        path: where they are, for messages.
        find: the file of an image by its number; or its name, and the bytes that it holds.
        size: see `read_image`; by default all images have the size of the first.
        workers: threads that read at once.

    Raises:
        ValueError: if the first image cannot be read.
    """

    def __init__(
        self, path: Path, find: Callable[[int], tuple[Path, bytes | None]], size: int | None, workers: int
    ) -> None:
        self.path, self.find, self.size = path, find, size
        self.first, content = find(0)
        self.shape = self._decoded(self.first, content).shape
        self.threads = ThreadPoolExecutor(workers)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Bytes `[batch, channels, height, width]`.

        Raises:
            ValueError: naming the file, if it cannot be read, has another size, or has colours and the first has none.
        """
        pictures = np.stack(list(self.threads.map(self._one, numbers.tolist())))
        return pictures[:, None] if len(self.shape) == 2 else np.moveaxis(pictures, -1, 1)

    def _one(self, number: int) -> np.ndarray:
        file, content = self.find(number)
        picture = self._decoded(file, content)
        if picture.shape[:2] != self.shape[:2]:
            (height, width), (other, wide) = self.shape[:2], picture.shape[:2]
            raise ValueError(
                f"path={self.path}: {self.first.name} is {width}x{height} and {file.name} is {wide}x{other}; "
                f"data.size={min(height, width, wide, other)} scales and crops all of them"
            )
        if len(self.shape) == 2 and picture.ndim == 3:
            raise ValueError(f"path={self.path}: {self.first.name} is grey and {file.name} has colours")
        return picture if picture.ndim == len(self.shape) else np.repeat(picture[..., None], 3, axis=-1)

    def _decoded(self, file: Path, content: bytes | None) -> np.ndarray:
        try:
            return read_image(file, self.size, Counter(), content)
        except ValueError as error:
            raise ValueError(f"path={self.path}: {error}") from error
