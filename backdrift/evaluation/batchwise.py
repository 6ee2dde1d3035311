"""Long computations batch by batch: in bounded memory, with progress, and shared by several processes.

Finished batches are kept until the command is done.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.runs.process_group import ALONE, ProcessGroup
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

    Several processes share the samples that are not kept yet, and find the batches of the others in the folder of
    those that are kept. So each has all values in the end, the same as one process alone.

    Attributes:
        progress: is told what is done, or None. Of several processes each counts its own part for the whole.
        kept: where finished batches are kept and found, and which processes share the work, or None.
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
            OSError: if a single sample does not fit into the memory, or several processes have no folder in common.
        """
        missing = [range(n)] if self.kept is None else self.kept.missing(stage, n)
        left = sum(map(len, missing))
        if self.progress is not None and left < n:
            self.progress.skip(weight * (n - left))
        size = min(batch_size(numbers), max(1, math.ceil(left / self.group.size)))
        mine = pieces(missing, size)[self.group.rank :: self.group.size]
        counts = weight * left / max(1, sum(map(len, mine)))
        done: dict[int, Batch] = {}
        with self.group.together():
            for first, batch in self._computed(compute, mine, counts):
                length = len(next(iter(batch.values())))
                if self.kept is not None and (self.stages or self.group.size > 1 or length < n):
                    self.kept.save(stage, first, batch)
                done[first] = batch
        with self.group.together():  # the first process removes the files only after all have read them
            return stacked(self._in_order(done, n, stage))

    @property
    def group(self) -> ProcessGroup:
        """The processes that share the work."""
        return ALONE if self.kept is None else self.kept.group

    def advance(self, more: float) -> None:
        """Tell the progress that a part of a batch is done, in samples times their weight."""
        if self.progress is not None:
            self.progress.advance(more * self.group.size)

    def _computed(
        self, compute: Callable[[Tensor], Batch], mine: Sequence[range], counts: float
    ) -> Iterator[tuple[int, Batch]]:
        """The batches of this process, each with the number of its first sample. A sample counts `counts`."""
        size = max(map(len, mine), default=1)
        for piece in mine:
            first = piece.start
            while first < piece.stop:
                before = 0.0 if self.progress is None else self.progress.done
                batch = _attempt(compute, torch.arange(first, min(first + size, piece.stop), device="cpu"))
                if batch is None:
                    size = _halved(min(size, piece.stop - first))
                    if self.progress is not None:
                        self.progress(before)
                    continue
                yield first, batch
                length = len(next(iter(batch.values())))
                first += length
                if self.progress is not None:
                    self.progress(before + counts * length)

    def _in_order(self, done: dict[int, Batch], n: int, stage: str) -> list[Batch]:
        """All batches of a stage: those computed here, and those that are kept."""
        batches, first = [], 0
        while first < n:
            batch = done.get(first) or (None if self.kept is None else self.kept.load(stage, first))
            if batch is None:
                assert self.kept is not None
                raise OSError(
                    f"{self.kept.folder}: the batch of sample {first} is not there or is damaged; several processes "
                    "need one run folder that all of them see"
                )
            batches.append(batch)
            first += len(next(iter(batch.values())))
        return batches


def pieces(gaps: Sequence[range], size: int) -> list[range]:
    """Ranges cut into pieces of at most `size`, in their order."""
    return [range(first, min(first + size, gap.stop)) for gap in gaps for first in range(gap.start, gap.stop, size)]


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
