"""What a reader of files returns: arrays as tensors, pictures in one layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backdrift.data.labels import encode
from backdrift.data.layout import layout_of

EXACT = 2**53
"""Float64 holds every whole number up to this one."""


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
        notes: what was assumed or left out, in words for the user.
        places: the number of the row of each sample in a table, or the path of its image, those of `test` last; None
            for arrays.
    """

    values: Tensor
    labels: Tensor | None = None
    test: Tensor | None = None
    test_labels: Tensor | None = None
    levels: int | None = None
    columns: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    places: tuple[int | str, ...] | None = None

    @staticmethod
    def of(
        array: np.ndarray,
        path: Path,
        labels: np.ndarray | None = None,
        test: np.ndarray | None = None,
        test_labels: np.ndarray | None = None,
        *,
        columns: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        layout: str | None = None,
        notes: Sequence[str] = (),
        places: Sequence[int | str] | None = None,
        missing: bool = False,
    ) -> Samples:
        """Arrays `[n, ...]` as samples. Arrays of bytes with two or three axes for each sample are pictures.

        Args:
            array: the training samples, or all if `test` is None.
            path: of the files, for messages.
            labels: of the training samples, see `labels.encode`.
            test: samples held back.
            test_labels: of these.
            columns: the names of the components of vectors.
            class_names: see `labels.encode`.
            layout: where the channels are, see `layout.layout_of`.
            notes: what the reader has to say.
            places: see `Samples`.
            missing: whether NaN stands for a missing number; otherwise it is refused.

        Raises:
            ValueError: if an array does not hold finite numbers, or holds no samples, if labels do not fit or only one
                split has them, or if the layout does not.
        """
        one_sided = (labels is None) != (test_labels is None)
        if one_sided and (test is not None or labels is None):
            have, lack = ("training", "test") if test_labels is None else ("test", "training")
            raise ValueError(f"path={path}: the {have} samples have labels and the {lack} samples none")
        is_bytes = array.dtype == np.uint8
        found = layout_of(array.shape, is_bytes, layout)
        encoded = None if labels is None else encode(labels, test_labels, f"path={path}", class_names)
        said = [*notes, *([found.note] if found.note else [])]
        values = found.apply(_numbers(array, "samples", path, missing))
        held = None if test is None else found.apply(_numbers(test, "test samples", path, missing))
        return Samples(
            torch.from_numpy(np.ascontiguousarray(values)),
            None if encoded is None else encoded.train,
            None if held is None else torch.from_numpy(np.ascontiguousarray(held)),
            None if encoded is None else encoded.test,
            256 if is_bytes and array.ndim in (3, 4) else None,
            None if columns is None else tuple(columns),
            None if encoded is None else encoded.names,
            tuple(said),
            None if places is None else tuple(places),
        )


def _numbers(array: np.ndarray, what: str, path: Path, missing: bool = False) -> np.ndarray:
    """An array `[n, ...]` of finite numbers, or NaN where they may be missing: bytes as they are, others in float64."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"path={path}: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"path={path}: holds no samples (an array of shape {list(array.shape)})")
    if array.ndim == 1:
        array = array[:, None]
    # Checked here, before a split shuffles the samples, so that the number in the message is that in the file.
    good = ~np.isinf(array) if missing else np.isfinite(array)
    bad = ~good.reshape(len(array), -1).all(1)
    if bad.any():
        raise ValueError(
            f"path={path}: {bad.sum()} of {len(array)} {what} hold {'inf' if missing else 'NaN or inf'}, the first is "
            f"number {bad.argmax() + 1}; remove or fill them first"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and max(int(array.max()), -int(array.min())) > EXACT:
        far = array.max() if int(array.max()) > EXACT else array.min()
        raise ValueError(
            f"path={path}: the {what} hold the whole number {far}, beyond 2^53, where float64 skips numbers; subtract "
            "a constant first"
        )
    # Float64 keeps the digits of a small spread about a large mean. Once standardised, float32 is enough.
    return array.astype(np.float64)
