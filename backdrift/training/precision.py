"""The precision of a training, chosen by a measurement at its start: bf16 where it is faster and as good."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils import convert_outputs_to_fp32, is_bf16_available
from torch import Tensor, nn

from backdrift.training.batches import Batch
from backdrift.training.parallel import Replicated
from backdrift.training.recipe import Recipe
from backdrift.training.shuffle import seed_device

STEPS = 7
"""Steps of the trial in each precision."""

UNTIMED = 2
"""The first steps of the trial, in which memory is taken and kernels are chosen."""

FASTER = 1.1
"""How many times faster bf16 has to be. Below, the gain is not worth its rounding."""

LossOf = Callable[[nn.Module, Batch], Tensor]
"""The loss of each sample of a batch, `[batch]`, by a network."""


@dataclass(frozen=True)
class PrecisionTrial:
    """What some steps from the same weights on the same batches cost in float32 and in bf16, and where they led.

    Attributes:
        float32: seconds of the fastest step in float32.
        bf16: seconds of the fastest step in bf16.
        difference: the mean loss after the steps in bf16 minus that after the steps in float32, both networks evaluated
            in float32 on one batch that neither was trained on, with the same times and noise.
        standard_error: of the mean loss on this batch.
    """

    float32: float
    bf16: float
    difference: float
    standard_error: float

    @property
    def choice(self) -> Literal["no", "bf16"]:
        """ "bf16" where it is `FASTER` times as fast and changes the loss by no more than its standard error."""
        agrees = abs(self.difference) <= self.standard_error  # not so where one of them is nan
        return "bf16" if agrees and self.float32 >= FASTER * self.bf16 else "no"

    def __str__(self) -> str:
        return (
            f"train.mixed_precision=auto: {self.choice}, since a step takes {1e3 * self.float32:.3g} ms in float32 and "
            f"{1e3 * self.bf16:.3g} ms in bf16, and the loss after {STEPS} steps differs by {self.difference:.2g} "
            f"(its standard error is {self.standard_error:.2g}; bf16 has to be {FASTER:g} times as fast)"
        )


def try_precisions(
    network: nn.Module, loss_of: LossOf, recipe: Recipe, batches: Sequence[Batch], device: torch.device
) -> PrecisionTrial | None:
    """Train two copies of a network for some steps, one in float32 and one in bf16, in turns.

    A few steps show errors that are gross. What bf16 changes at the end of a training they cannot show.

    Args:
        network: stays as it is.
        loss_of: the loss of each sample.
        recipe: gives the optimiser and the first learning rates.
        batches: `STEPS` batches to train on and one more, which the losses are compared on.
        device: of the training.

    Returns:
        The measurement, or None where the device has no bf16.
    """
    if not is_bf16_available():
        return None
    trials = [_Trial(network, recipe, device, half) for half in (False, True)]
    times: list[list[float]] = [[], []]
    for number, batch in enumerate(batches[:STEPS]):
        for trial, own in zip(trials, times, strict=True):
            seed_device(device, number)  # the same units are dropped in both
            own.append(trial.step(loss_of, batch, number))
    single, half = (trial.losses(loss_of, batches[STEPS]) for trial in trials)
    error = float(single.std()) / math.sqrt(len(single)) if len(single) > 1 else math.nan
    fastest = [min(each[UNTIMED:]) for each in times]
    return PrecisionTrial(fastest[0], fastest[1], float((half - single).mean()), error)


class _Trial:
    """A copy of a network that is trained in one precision.

    Args:
        network: what is copied.
        recipe: gives the optimiser and the learning rates.
        device: of the training.
        half: whether calls of the network run in bf16, with weights and results in float32, as accelerate has it.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, device: torch.device, half: bool) -> None:
        self.network = Replicated().place(copy.deepcopy(network), device, recipe.channels_last).train()
        self.recipe, self.device = recipe, device
        self.weights = list(self.network.parameters())
        self.optimizer = recipe.optimizer(self.weights)
        self.highest = [group["lr"] for group in self.optimizer.param_groups]
        self.full = self.network.forward
        if half:
            called = torch.autocast(device.type, torch.bfloat16)(self.full)
            self.network.forward = convert_outputs_to_fp32(called)

    def step(self, loss_of: LossOf, batch: Batch, number: int) -> float:
        """One step of the optimiser; the seconds that it takes."""
        self._synchronize()
        begun = time.perf_counter()
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * self.recipe.rate(number)
        loss_of(self.network, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.weights, math.inf if self.recipe.clip is None else self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._synchronize()
        return time.perf_counter() - begun

    @torch.no_grad()
    def losses(self, loss_of: LossOf, batch: Batch) -> Tensor:
        """The loss of each sample in float32, in evaluation mode, `[batch]`, float64."""
        self.network.forward = self.full
        return loss_of(self.network.eval(), batch).double()

    def _synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
