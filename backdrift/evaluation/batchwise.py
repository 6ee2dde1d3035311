"""Long computations batch by batch: in bounded memory, with progress, and with the finished batches kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.runs.progress import Progress
from backdrift.runs.unfinished import Batch, Unfinished, stacked

BATCH = 256
"""Samples in memory at once, at most. It changes no value, since a sample does not depend on its neighbours."""

NUMBERS = 2**18
"""Numbers in the samples of a batch, at most: 85 pictures of 3x32x32. A batch holds at least one sample."""


def batches(n: int, numbers: int) -> tuple[Tensor, ...]:
    """The indices of n samples of so many numbers each, `[batch]` for each batch."""
    return torch.arange(n).split(max(1, min(BATCH, NUMBERS // max(1, numbers))))


@dataclass(frozen=True)
class Batchwise:
    """Computes something for many samples, batch by batch.

    Attributes:
        progress: is told what is done, or None.
        kept: where finished batches are kept and found, or None.
        stages: whether a command has several stages. Otherwise a single batch is the whole work, and is not kept.
    """

    progress: Progress | None = None
    kept: Unfinished | None = None
    stages: bool = False

    def __call__(
        self, compute: Callable[[Tensor], Batch], n: int, numbers: int, *, stage: str = "batch", weight: float = 1.0
    ) -> Batch:
        """What `compute` gives for all samples, on the host.

        Args:
            compute: gives named values `[batch, ...]` for the samples with indices `[batch]`.
            n: number of samples.
            numbers: in one sample.
            stage: the name of this computation among those of a command.
            weight: what one sample counts in the progress.
        """
        done, parts = [], batches(n, numbers)
        for indices in parts:
            first = int(indices[0])
            before = 0.0 if self.progress is None else self.progress.done
            found = None if self.kept is None else self.kept.load(stage, first)
            batch = {name: value.detach().cpu() for name, value in compute(indices).items()} if found is None else found
            if found is None and self.kept is not None and (self.stages or len(parts) > 1):
                self.kept.save(stage, first, batch)
            done.append(batch)
            if self.progress is None:
                continue
            if found is None:
                self.progress(before + weight * len(indices))
            else:
                self.progress.skip(weight * len(indices))
        return stacked(done)

    def advance(self, more: float) -> None:
        """Tell the progress that a part of a batch is done."""
        if self.progress is not None:
            self.progress.advance(more)


HERE = Batchwise()
"""Without progress, and without keeping anything."""
