"""How much each sample counts in the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backdrift.data.arrays import load_npy


def read_weights(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    return load_npy(path, "weights")


def loss_weights(values: np.ndarray, n: int) -> Tensor:
    r"""Weights as the loss takes them, `[n]`, float32: those that were given divided by their mean.

    The loss is the mean of w_i l_i, so that with a mean weight of 1 the learning rate means what it does without
    weights. A model learns the density of the weighted samples, \sum_i w_i \delta(x - x_i) / \sum_i w_i.

    Args:
        values: a number from 0 for each sample, `[n]`.
        n: how many samples there are.

    Raises:
        ValueError: if there is not one for each sample, one is negative or not finite, or all are 0.
    """
    if values.shape != (n,) or values.dtype.kind not in "biuf":
        raise ValueError(f"weights: expected {n} numbers, got {values.dtype} {list(values.shape)}")
    given = values.astype(np.float64)
    wrong = ~np.isfinite(given) | (given < 0)
    if wrong.any():
        number = int(wrong.argmax())
        raise ValueError(f"weights: expected finite numbers from 0, got {values[number]} as number {number + 1}")
    if not given.any():
        raise ValueError("weights: expected one above 0 at least, got 0 for all samples")
    return torch.from_numpy((given / given.mean()).astype(np.float32))
