"""Long computations batch by batch: in bounded memory, with progress, and with the finished batches kept."""

from __future__ import annotations

import gc
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


def batch_size(numbers: int) -> int:
    """How many samples of so many numbers each make a batch, as long as they fit into the memory."""
    return max(1, min(BATCH, NUMBERS // max(1, numbers)))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory is short: `torch.OutOfMemoryError`, or what MPS and the CPU raise for it."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


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
        """What `compute` gives for all samples in their order, on the host.

        A batch that does not fit into the memory is halved, and so are all that come after it.

        Args:
            compute: gives named values `[batch, ...]` for the samples with indices `[batch]`.
            n: number of samples.
            numbers: in one sample.
            stage: the name of this computation among those of a command.
            weight: what one sample counts in the progress.

        Raises:
            OSError: if a single sample does not fit into the memory.
        """
        done: list[Batch] = []
        first, size = 0, batch_size(numbers)
        while first < n:
            before = 0.0 if self.progress is None else self.progress.done
            found = None if self.kept is None else self.kept.load(stage, first)
            batch = found or _attempt(compute, torch.arange(first, min(first + size, n), device="cpu"))
            if batch is None:
                size = _halved(min(size, n - first))
                if self.progress is not None:
                    self.progress(before)
                continue
            length = len(next(iter(batch.values())))
            if found is None and self.kept is not None and (self.stages or length < n):
                self.kept.save(stage, first, batch)
            done.append(batch)
            first += length
            if self.progress is None:
                continue
            if found is None:
                self.progress(before + weight * length)
            else:
                self.progress.skip(weight * length)
        return stacked(done)

    def advance(self, more: float) -> None:
        """Tell the progress that a part of a batch is done."""
        if self.progress is not None:
            self.progress.advance(more)


def _attempt(compute: Callable[[Tensor], Batch], indices: Tensor) -> Batch | None:
    """What `compute` gives for a batch, on the host; None if it does not fit into the memory."""
    try:
        return {name: value.detach().cpu() for name, value in compute(indices).items()}
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def _halved(size: int) -> int:
    """The next size of a batch to try. Memory that a failed batch still has is given back first.

    Raises:
        OSError: if there was one sample only.
    """
    if size == 1:
        raise OSError("device: a single sample does not fit into the memory; device=cpu computes in that of the host")
    if torch.accelerator.is_available():
        gc.collect()
        empty = getattr(torch.get_device_module(), "empty_cache", None)
        if empty is not None:
            empty()
    return max(1, size // 2)


HERE = Batchwise()
"""Without progress, and without keeping anything."""
