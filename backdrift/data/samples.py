"""What a reader of files returns: arrays as tensors, pictures in one layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Samples as read, pictures `[n, channels, height, width]`; `test` where the files hold one."""

    values: Tensor
    labels: Tensor | None = None
    test: Tensor | None = None
    test_labels: Tensor | None = None
    levels: int | None = None

    @staticmethod
    def of(
        array: np.ndarray,
        path: Path,
        labels: np.ndarray | None = None,
        test: np.ndarray | None = None,
        test_labels: np.ndarray | None = None,
    ) -> Samples:
        """Arrays `[n, ...]` as samples; those of bytes with two or three axes a sample are pictures.

        Raises:
            ValueError: if an array does not hold finite numbers, or holds no samples.
        """
        picture = array.dtype == np.uint8 and array.ndim in (3, 4)
        return Samples(
            _tensor(array, path, picture),
            _labels(labels, path),
            None if test is None else _tensor(test, path, picture),
            _labels(test_labels, path),
            256 if picture else None,
        )


def _tensor(array: np.ndarray, path: Path, picture: bool) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"path={path}: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"path={path}: holds no samples (an array of shape {list(array.shape)})")
    if array.ndim == 1:
        array = array[:, None]
    # Told here, before a split shuffles the samples, so that the number is that in the file.
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
        # Float64 keeps the digits of a small spread about a large mean; standardised, float32 is enough.
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(labels: np.ndarray | None, path: Path) -> Tensor | None:
    """Labels as classes 0, 1, …, in the order of their values."""
    if labels is None:
        return None
    if labels.ndim != 1:
        raise ValueError(f"path={path}: expected one label for each sample, got shape {list(labels.shape)}")
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].astype(np.int64))
