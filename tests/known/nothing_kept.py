"""Stands for the finished batches of a command where none are kept."""

from __future__ import annotations

from torch import Tensor

from backdrift.runs.process_group import ALONE


class Nothing:
    """Keeps no batches."""

    group = ALONE

    def missing(self, stage: str, n: int) -> list[range]:
        return [range(n)]

    def load(self, stage: str, first: int) -> None:
        return None

    def save(self, stage: str, first: int, batch: dict[str, Tensor]) -> None:
        pass
