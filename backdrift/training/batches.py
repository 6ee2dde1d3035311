"""What the loss of a step sees: a function of the seed and the step's number."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backdrift.data import Record, Source, Units
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.models.conditions import Label, Picture, Vector, standardised
from backdrift.models.times import stratified_uniform
from backdrift.sde import DataMoments
from backdrift.training.recipe import Recipe
from backdrift.training.shuffle import Shuffle, mixed


class Batch(NamedTuple):
    """Everything that the loss of a step depends on, besides the weights. The first axis is the batch.

    Attributes:
        x0: samples in the model's units, `[batch, ...]`.
        u: numbers in (0, 1) that become times, `[batch]`.
        noise: standard normal numbers, shaped like a state, `[batch, ...]`.
        condition: of each sample, in the units of the network, `[batch, ...]`, or None. A share of them is withheld.
        weight: how much each sample counts in the loss, `[batch]`, or None if each counts 1.
    """

    x0: Tensor
    u: Tensor
    noise: Tensor
    condition: Tensor | None
    weight: Tensor | None

    def share(self, process: int, processes: int) -> Batch:
        """Every sample of number `process`, `process + processes`, …"""
        mine = slice(process, None, processes)
        condition = None if self.condition is None else self.condition[mine]
        weight = None if self.weight is None else self.weight[mine]
        return Batch(self.x0[mine], self.u[mine], self.noise[mine], condition, weight)


class Batches:
    """Draws the batch of each step.

    Args:
        source: where the samples come from.
        units: the map from the samples to the model's units.
        state_shape: of one state of the process.
        accepted: the condition that the network takes. Without one the conditions of the samples are left out.
        recipe: gives the samples in a step, the seed, the share of conditions withheld, and the layout in memory.
        device: where the batch goes, and where its random numbers are drawn.
        moments: by which vectors and pictures are standardised.
        process: the number of this process.
        processes: how many there are. Each reads the samples of its own share alone.
    """

    def __init__(
        self,
        source: Source,
        units: Units,
        state_shape: tuple[int, ...],
        accepted: AcceptedCondition,
        recipe: Recipe,
        device: torch.device,
        moments: DataMoments | None = None,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.process, self.processes = process, processes
        self.source, self.units, self.state_shape, self.accepted = source, units, state_shape, accepted
        self.recipe, self.device, self.moments = recipe, device, moments
        self.order = Shuffle(len(source), recipe.samples, recipe.seed)
        self.generator = torch.Generator(device)

    def draw(self, step: int) -> Batch:
        """The batch of step 0, 1, …, whose random numbers are those of all processes.

        Zeros stand for the samples of the other processes.
        """
        generator = self.generator.manual_seed(mixed(self.recipe.seed, 2, step))
        record = self._records(self.order(step))
        if record.condition is not None and self.accepted.kind in (Vector, Picture):
            record = record._replace(condition=standardised(record.condition, self.moments).float())
        record = record.to(self.device)
        x0 = self.units.to_model(record.sample, generator)
        u = stratified_uniform(len(x0), generator, self.device)
        noise = torch.randn(len(x0), *self.state_shape, generator=generator, device=self.device)
        condition = self._withhold(record.condition)
        if self.recipe.channels_last and x0.ndim == 4:
            x0 = x0.contiguous(memory_format=torch.channels_last)
        return Batch(x0, u, noise, condition, record.weight)

    def _records(self, indices: Tensor) -> Record:
        """The samples of this process's share, each at its place in the batch."""
        if self.processes == 1:
            return self.source.records(indices)
        mine = slice(self.process, None, self.processes)
        own = self.source.records(indices[mine])

        def placed(values: Tensor) -> Tensor:
            whole = values.new_zeros(len(indices), *values.shape[1:])
            whole[mine] = values
            return whole

        condition = None if own.condition is None else placed(own.condition)
        weight = None if own.weight is None else placed(own.weight)
        return Record(placed(own.sample), condition, weight, indices)

    def _withhold(self, condition: Tensor | None) -> Tensor | None:
        """Conditions of which a share is replaced by what stands for none, and of some vectors a part is missing."""
        if condition is None or self.accepted.kind is None:
            return None
        recipe = self.recipe
        kept = self._uniform(condition.shape[:1]) >= recipe.label_dropout
        if self.accepted.kind is Label:
            return torch.where(kept, condition, self.accepted.size)
        if self.accepted.kind is Vector:
            partly = self._uniform((len(condition), 1)) < recipe.partial_dropout
            condition = torch.where(partly & (self._uniform(condition.shape) < 0.5), torch.nan, condition)
        return torch.where(kept.reshape(-1, *(1,) * (condition.ndim - 1)), condition, torch.nan)

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)
