"""What training changes, and a checkpoint keeps."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from backdrift.runs import checkpoint
from backdrift.runs.checkpoint import Checkpoint
from backdrift.training.parallel import Replicated


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
        parallel: how the processes share the weights.
        step: optimiser steps done.
    """

    network: nn.Module
    optimizer: Optimizer
    scaler: Scaler | None
    average: nn.Module
    parallel: Replicated = field(default_factory=Replicated)
    step: int = 0

    @classmethod
    @torch.no_grad()
    def start(
        cls,
        network: nn.Module,
        optimizer: Optimizer,
        scaler: Scaler | None,
        average: nn.Module | None = None,
        parallel: Replicated | None = None,
    ) -> TrainingState:
        """The state before the first step, in which the average is the network itself, in evaluation mode.

        Args:
            network, optimizer, scaler, parallel: of the state; by default each process holds all weights.
            average: a network of the same kind to hold the average; by default a copy. Parts of a network that several
                processes share cannot be copied.
        """
        average = copy.deepcopy(network) if average is None else average
        for mean, now in zip(_values(average), _values(network), strict=True):
            mean.copy_(now)
        return cls(network, optimizer, scaler, average.eval(), Replicated() if parallel is None else parallel)

    # Lists, since walking through the modules of a large network in every step takes a millisecond.
    @functools.cached_property
    def weights(self) -> list[nn.Parameter]:
        """The parameters of the network."""
        return list(self.network.parameters())

    @functools.cached_property
    def own(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of the average and of the weights that lie in this process, in the same order."""
        return self.parallel.own(self.average.parameters()), self.parallel.own(self.weights)

    def restore(self, kept: Checkpoint) -> None:
        """Go back to a checkpoint.

        Raises:
            ValueError: if it is not of such a network and optimiser, or its weights are not finite.
            Damaged: if it is not what was written.
        """
        memory = kept.optimizer()
        kept.load(self.network, "model", self.parallel.load)
        kept.load(self.average, "ema", self.parallel.load)
        try:
            self.parallel.load_memory(self.optimizer, memory["optimizer"])
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

    def save(self, folder: Path, keep: int, writes: bool = True) -> None:
        """Write a checkpoint into a folder, where the newest `keep` of them stay. All processes call this together.

        Args:
            folder: `checkpoints` of a run.
            keep: how many stay.
            writes: whether this process writes; only the first one does.
        """
        # Buffers are not averaged: the average takes those that the network has now.
        for mean, now in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(now)
        memory = {
            "optimizer": self.parallel.memory(self.optimizer),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        weights, averages = (self.parallel.weights(each) for each in (self.network, self.average))
        if writes:
            checkpoint.save(folder, self.step, weights, averages, memory, keep)

    def update_average(self, decay: float) -> None:
        """Move the average towards the weights: average = decay average + (1 - decay) weights."""
        get_ema_multi_avg_fn(decay)(*self.own, self.step)

    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(value.isfinite().all()) for value in self.weights)


def _values(network: nn.Module) -> list[Tensor]:
    """All parameters and buffers of a network, in their order."""
    return [*network.parameters(), *network.buffers()]
