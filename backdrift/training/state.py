"""What training changes, and a checkpoint keeps."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from backdrift.runs import checkpoint
from backdrift.runs.checkpoint import Checkpoint


class Scaler(Protocol):
    """What scales the loss of half-precision training, such as `torch.amp.GradScaler`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@dataclass
class TrainingState:
    """The network, the running average of its weights, and what the optimiser remembers.

    Random numbers are no part of it: those of a step are a function of the seed and the step's number.

    Attributes:
        network: its weights as trained.
        optimizer: of these weights.
        scaler: of the loss, or None without one.
        average: the same network with the running average of the weights.
        step: optimiser steps done.
    """

    network: nn.Module
    optimizer: Optimizer
    scaler: Scaler | None
    average: nn.Module
    step: int = 0

    @classmethod
    def start(cls, network: nn.Module, optimizer: Optimizer, scaler: Scaler | None) -> TrainingState:
        """The state before the first step, in which the average is the network itself, in evaluation mode."""
        return cls(network, optimizer, scaler, copy.deepcopy(network).eval())

    # Lists, since walking through the modules of a large network in every step takes a millisecond.
    @functools.cached_property
    def weights(self) -> list[nn.Parameter]:
        """The parameters of the network."""
        return list(self.network.parameters())

    @functools.cached_property
    def averages(self) -> list[nn.Parameter]:
        """The parameters of the average, in the same order."""
        return list(self.average.parameters())

    def restore(self, kept: Checkpoint) -> None:
        """Go back to a checkpoint.

        Raises:
            ValueError: if it is not of such a network and optimiser, or its weights are not finite.
            Damaged: if it is not what was written.
        """
        memory = kept.optimizer()
        kept.load(self.network, "model")
        kept.load(self.average, "ema")
        try:
            self.optimizer.load_state_dict(memory["optimizer"])
            self._require_fit()
            if self.scaler is not None and memory["scaler"]:
                self.scaler.load_state_dict(memory["scaler"])
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise ValueError(f"{kept.path}: optimizer.pt is not of the config's optimizer ({error})") from error
        self.step = kept.step

    def _require_fit(self) -> None:
        """Raise `ValueError` where the optimiser remembers a tensor of another shape than the weight it is about."""
        for weight, memory in self.optimizer.state.items():
            for name, value in memory.items():
                if not isinstance(value, Tensor) or value.ndim != weight.ndim:
                    continue
                if any(length not in (1, full) for length, full in zip(value.shape, weight.shape, strict=True)):
                    raise ValueError(f"{name} has the shape {list(value.shape)}, its weight {list(weight.shape)}")

    def save(self, folder: Path, keep: int) -> None:
        """Write a checkpoint into a folder, where the newest `keep` of them stay."""
        # Buffers are not averaged: the average takes those that the network has now.
        for mean, now in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(now)
        memory = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        checkpoint.save(folder, self.step, self.network.state_dict(), self.average.state_dict(), memory, keep)

    def update_average(self, decay: float) -> None:
        """Move the average towards the weights: average = decay average + (1 - decay) weights."""
        get_ema_multi_avg_fn(decay)(self.averages, self.weights, self.step)

    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(value.isfinite().all()) for value in self.weights)
