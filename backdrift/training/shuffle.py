"""Which samples a training step sees, and the seeds of its random numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Shuffle:
    """Which samples each step sees: shuffled passes over all samples, one after the other, cut into batches.

    Args:
        samples: number of training samples.
        batch: samples in a step.
        seed: of the shuffles.
    """

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        self.samples, self.batch, self.seed = samples, batch, seed
        self._shuffled: tuple[int, Tensor] = (-1, torch.empty(0))

    def __call__(self, step: int) -> Tensor:
        """The indices of the samples that step 0, 1, … sees, `[batch]`."""
        place, end, parts = step * self.batch, (step + 1) * self.batch, []
        while place < end:
            turn, start = divmod(place, self.samples)
            parts.append(self._pass(turn)[start : start + end - place])
            place += len(parts[-1])
        return torch.cat(parts)

    def _pass(self, turn: int) -> Tensor:
        if self._shuffled[0] != turn:
            generator = torch.Generator().manual_seed(mixed(self.seed, 1, turn))
            self._shuffled = (turn, torch.randperm(self.samples, generator=generator, device="cpu"))
        return self._shuffled[1]


def mixed(*numbers: int) -> int:
    """A seed made of several numbers, by a hash.

    Sums would not do: step 1 of seed 2 would have the seed of step 2 of seed 1.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the random numbers that modules such as dropout draw on `device`."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` also prepares calls for each GPU library
    else:
        torch.manual_seed(seed)
