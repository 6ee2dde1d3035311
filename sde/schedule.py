"""Schedules: how fast a process runs through its own time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Positive


class Schedule(Protocol):
    """A rate beta(t) > 0 and its integral B(t) from 0 to t, both functions of a tensor t of any shape.

    `VP` and the other processes with a linear beta are schedules, and so is any object with these two methods.
    """

    def beta(self, t: Tensor) -> Tensor:
        """beta(t), per unit time."""

    def integrated_beta(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""


@dataclass(frozen=True)
class ConstantSchedule:
    """The schedule beta(t) = rate, B(t) = rate t.

    Args:
        rate: beta, per unit time.

    Raises:
        ValueError: if `rate` is not positive.
    """

    rate: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def beta(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.rate)

    def integrated_beta(self, t: Tensor) -> Tensor:
        return self.rate * t
