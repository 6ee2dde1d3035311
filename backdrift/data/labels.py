"""Labels of any kind as the numbers 0, 1, … of their classes, the same numbers in every split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Encoded(NamedTuple):
    """Labels by number.

    Attributes:
        train: a class 0, 1, … for each training sample, `[n]`.
        test: the same for the test samples, or None if there are none.
        names: of the classes.
    """

    train: Tensor
    test: Tensor | None
    names: tuple[str, ...]


def encode(
    labels: np.ndarray, test: np.ndarray | None, source: str, class_names: Sequence[str] | None = None
) -> Encoded:
    """Number the classes in the order of the training labels' values.

    Args:
        labels: whole numbers, words or truth values, `[n]` or `[n, 1]`.
        test: the same for the test samples, or None.
        source: where they are from, in messages, such as "path=data.npz".
        class_names: names for labels that are the numbers 0, 1, … already. By default a class is called by its label.

    Raises:
        ValueError: if a label is missing or is not a whole number, there is not one for each sample, a test label is
            not among the training labels, or a label has no name.
    """
    values = _plain(labels, "labels", source)
    found = np.unique(values)
    if class_names is not None:
        if found.dtype.kind != "i" or found[0] < 0 or found[-1] >= len(class_names):
            raise ValueError(
                f"{source}: expected labels from 0 to {len(class_names) - 1} for {len(class_names)} names of "
                f"classes, got {found[0]} to {found[-1]}"
            )
        found = np.arange(len(class_names))
    held = None if test is None else _plain(test, "test labels", source)
    unknown = set() if held is None else set(held.tolist()).difference(found.tolist())
    if unknown:
        raise ValueError(f"{source}: the test label {min(unknown, key=str)} is not among those of the training samples")
    names = tuple(map(str, found.tolist() if class_names is None else class_names))
    return Encoded(_numbered(values, found), None if held is None else _numbered(held, found), names)


def _plain(labels: np.ndarray, what: str, source: str) -> np.ndarray:
    """Labels `[n]` as int64 or as words, none of them missing."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"{source}: expected one label for each sample, got {what} of shape {list(labels.shape)}")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "U":
        missing, whole = np.char.strip(labels) == "", np.ones(len(labels), dtype=bool)
    elif labels.dtype.kind in "biuf":
        missing = ~np.isfinite(labels)
        whole = missing | (labels == np.floor(labels)) if labels.dtype.kind == "f" else ~missing
    elif (absent := np.array([one is None or one != one for one in labels.tolist()])).any():
        missing, whole = absent, absent
    else:
        raise ValueError(f"{source}: expected {what} that are whole numbers or words, got dtype {labels.dtype}")
    if missing.any():
        raise ValueError(
            f"{source}: {missing.sum()} of {len(labels)} {what} are missing (NaN, inf or empty), the first is "
            f"number {missing.argmax() + 1}; remove or fill them first"
        )
    if not whole.all():
        raise ValueError(
            f"{source}: expected {what} that are whole numbers or words, got {labels[~whole][0]} as number "
            f"{(~whole).argmax() + 1}"
        )
    return labels.astype(np.int64) if labels.dtype.kind in "iuf" else labels


def _numbered(labels: np.ndarray, classes: np.ndarray) -> Tensor:
    return torch.from_numpy(np.searchsorted(classes, labels).astype(np.int64))
