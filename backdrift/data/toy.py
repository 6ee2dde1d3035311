"""Points of known shape in the plane, to see what a model does."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from backdrift.data.dataset import Data
from backdrift.sde.arguments import checked
from backdrift.sde.value_types import NonNegative, Positive, Range, Seed, Seed32

Points = Annotated[int, Range(least=2, most=10_000_000)]


class Toy(Data):
    """Points for training and points held back.

    Args:
        points: all of them, `[test + n, 2]`.
        labels: the part that each belongs to, or None.
        test: how many of the first points are held back.
        name: what the set is called.
        class_names: the names of the parts; by default their numbers.
    """

    def __init__(
        self,
        points: Tensor,
        labels: Tensor | None,
        test: int,
        name: str,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        train_labels, test_labels = (None, None) if labels is None else (labels[test:], labels[:test])
        super().__init__(points[test:], points[:test], train_labels, test_labels, name=name, class_names=class_names)


class Moons(Toy):
    """Two half circles of radius 1 that reach into each other, blurred (scikit-learn's `make_moons`).

    Args:
        n: points for training.
        test: points held back.
        noise: standard deviation of the blur.
        seed: of the draw.
    """

    @checked
    def __init__(self, n: Points = 10_000, test: Points = 2_000, noise: NonNegative = 0.08, seed: Seed32 = 0) -> None:
        from sklearn.datasets import make_moons  # slow to import, and only this data set uses it

        points, labels = make_moons(n + test, noise=noise, random_state=seed)
        moons = torch.from_numpy(points).float(), torch.from_numpy(labels).long()
        super().__init__(*moons, test, "moons", ("upper", "lower"))


class Checkerboard(Toy):
    """Points spread evenly over the black squares of a 4x4 board on [-2, 2]^2: their log-density there is -log 8.

    Args:
        n: points for training.
        test: points held back.
        seed: of the draw.
    """

    @checked
    def __init__(self, n: Points = 20_000, test: Points = 2_000, seed: Seed = 0) -> None:
        generator = np.random.default_rng(seed)
        square = generator.integers(8, size=n + test)
        row = square // 2
        corner = np.stack([2 * (square % 2) + row % 2, row], axis=1) - 2
        points = corner + generator.random(corner.shape)
        super().__init__(torch.from_numpy(points).float(), None, test, "checkerboard")


class Ring(Toy):
    """A mixture of normal densities whose means lie evenly on a circle.

    Args:
        n: points for training.
        test: points held back.
        modes: number of normal densities, the classes.
        radius: of the circle.
        noise: standard deviation of each.
        seed: of the draw.

    Raises:
        ValueError: if `modes` is below 1, or `noise` is not positive.
    """

    @checked
    def __init__(
        self,
        n: Points = 10_000,
        test: Points = 2_000,
        modes: Annotated[int, Range(least=1, most=1_000_000)] = 8,
        radius: NonNegative = 2.0,
        noise: Positive = 0.2,
        seed: Seed = 0,
    ) -> None:
        angle = 2 * math.pi * torch.arange(modes) / modes
        self.means, self.noise = radius * torch.stack([angle.cos(), angle.sin()], dim=1), noise
        generator = torch.Generator().manual_seed(seed)
        total = n + test
        labels = torch.randint(modes, (total,), generator=generator, device="cpu")
        points = self.means[labels] + noise * torch.randn(total, 2, generator=generator, device="cpu")
        super().__init__(points, labels, test, "ring")
