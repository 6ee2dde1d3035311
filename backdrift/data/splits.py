"""Samples held back for tests: a share of all, or the same share of each class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def split(
    values: Tensor, labels: Tensor | None, test: float, seed: int, name: str = "data"
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Hold back a share of the samples, drawn at random, as a test set.

    Args:
        values: the samples, `[n, ...]`.
        labels: their classes, `[n]`, or None.
        test: the share that is held back.
        seed: of the draw.
        name: what messages call the samples.

    Returns:
        The training samples, the test samples, and the labels of each, which are None without labels.

    Raises:
        ValueError: if `test` is not between 0 and 1, a part would hold fewer than two samples, or a label is missing.
    """
    if not 0 < test < 1:
        raise ValueError(f"test={test}: expected a fraction of the samples between 0 and 1")
    if labels is not None and len(labels) != len(values):
        raise ValueError(f"{name}: expected a label for each of {len(values)} samples, got {len(labels)}")
    held = round(test * len(values))
    if min(held, len(values) - held) < 2:
        raise ValueError(f"{name}: too few samples ({len(values)}) to hold back a test fraction of {test}")
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed), device="cpu")
    rest, kept = order[held:], order[:held]
    if labels is None:
        return values[rest], values[kept], None, None
    return values[rest], values[kept], labels[rest], labels[kept]


def stratified_split(
    images: np.ndarray, labels: np.ndarray, test: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hold back `test` images, the same share of each class: train and test images (uint8) and their labels.

    Raises:
        ValueError: if a part would hold fewer than two images.
    """
    from sklearn.model_selection import train_test_split  # slow to import, and only these data sets use it

    if not 2 <= test <= len(images) - 2:
        raise ValueError(f"test={test}: expected a number of images from 2 to {len(images) - 2}")
    parts = train_test_split(
        images.astype(np.uint8), labels.astype(np.int64), test_size=test, stratify=labels, random_state=seed
    )
    train, held, train_labels, held_labels = map(torch.from_numpy, parts)
    return train, held, train_labels, held_labels
