"""What a reader of files returns: arrays as tensors, pictures in one layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Samples as read from files.

    Attributes:
        values: `[n, ...]`; pictures are `[n, channels, height, width]`.
        labels: a class 0, 1, … for each, `[n]`, or None.
        test: samples that the files hold for tests, or None.
        test_labels: their classes, or None.
        levels: how many values a component takes, or None for continuous data.
        columns: the names of the components of vectors, or None.
        class_names: the names of the classes, or None.
    """

    values: Tensor
    labels: Tensor | None = None
    test: Tensor | None = None
    test_labels: Tensor | None = None
    levels: int | None = None
    columns: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None

    @staticmethod
    def of(
        array: np.ndarray,
        path: Path,
        labels: np.ndarray | None = None,
        test: np.ndarray | None = None,
        test_labels: np.ndarray | None = None,
        columns: tuple[str, ...] | None = None,
    ) -> Samples:
        """Arrays `[n, ...]` as samples. Arrays of bytes with two or three axes for each sample are pictures.

        Raises:
            ValueError: if an array does not hold finite numbers, or holds no samples, or if a test label is not among
                those of the training samples.
        """
        picture = array.dtype == np.uint8 and array.ndim in (3, 4)
        classes = None if labels is None else _classes(labels, path)
        return Samples(
            _tensor(array, path, picture),
            None if labels is None or classes is None else _numbered(labels, classes, path),
            None if test is None else _tensor(test, path, picture),
            None if test_labels is None or classes is None else _numbered(test_labels, classes, path),
            256 if picture else None,
            columns,
            None if classes is None else tuple(map(str, classes.tolist())),
        )


def _tensor(array: np.ndarray, path: Path, picture: bool) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"path={path}: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"path={path}: holds no samples (an array of shape {list(array.shape)})")
    if array.ndim == 1:
        array = array[:, None]
    # Checked here, before a split shuffles the samples, so that the number in the message is that in the file.
    bad = ~np.isfinite(array).reshape(len(array), -1).all(1)
    if bad.any():
        raise ValueError(
            f"path={path}: {bad.sum()} of {len(array)} samples hold NaN or inf, the first is number "
            f"{bad.argmax() + 1}; remove or fill them first"
        )
    if picture and array.ndim == 3:
        array = array[:, None]
    elif picture and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = np.moveaxis(array, -1, 1)
    if array.dtype != np.uint8:
        # Float64 keeps the digits of a small spread about a large mean. Once standardised, float32 is enough.
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array))


def _classes(labels: np.ndarray, path: Path) -> np.ndarray:
    """The values that labels take, in their order."""
    if labels.ndim != 1:
        raise ValueError(f"path={path}: expected one label for each sample, got shape {list(labels.shape)}")
    return np.unique(labels)


def _numbered(labels: np.ndarray, classes: np.ndarray, path: Path) -> Tensor:
    """Labels as the numbers 0, 1, … of their classes."""
    unknown = set(_classes(labels, path).tolist()).difference(classes.tolist())
    if unknown:
        raise ValueError(f"path={path}: the test label {min(unknown)} is not among those of the training samples")
    return torch.from_numpy(np.searchsorted(classes, labels).astype(np.int64))
