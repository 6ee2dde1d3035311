"""What a data set yields: records, and the sources that they come from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Record(NamedTuple):
    """A batch of samples, with all that belongs to them. Every tensor has the batch as its first axis.

    Attributes:
        sample: v, in the data's own units, `[batch, ...]`.
        condition: what the density of each sample is conditioned on, or None: a class 0, 1, …, `[batch]`, or a vector
            or a picture in its own units, `[batch, ...]`.
        weight: how much each sample counts in the loss, `[batch]`, or None if each counts 1.
        index: the number of each sample in its source, `[batch]`.
    """

    sample: Tensor
    condition: Tensor | None
    weight: Tensor | None
    index: Tensor  # type: ignore[assignment]  # hides the method of tuples, which a record has no use for

    def to(self, device: torch.device) -> Record:
        """The same batch on another device."""
        condition = None if self.condition is None else self.condition.to(device)
        weight = None if self.weight is None else self.weight.to(device)
        return Record(self.sample.to(device), condition, weight, self.index.to(device))


class Source(Protocol):
    """Numbered samples that need not fit in memory. The trainer asks for them by number, a batch at a time.

    A batch has to depend on the numbers asked for and on nothing else, so that a training that was interrupted goes on
    with the same samples.
    """

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def records(self, indices: Tensor) -> Record:
        """The samples with numbers `indices`, `[batch]`, each from 0 to len - 1, in that order."""
        ...
