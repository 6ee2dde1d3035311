"""What the loss of a step sees: a function of the seed and the step's number."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backdrift.data import Source, Units
from backdrift.models.times import stratified_uniform
from backdrift.training.recipe import Recipe
from backdrift.training.shuffle import Shuffle, mixed


class Batch(NamedTuple):
    """Everything that the loss of a step depends on, besides the weights. The first axis is the batch.

    Attributes:
        x0: samples in the model's units, `[batch, ...]`.
        u: numbers in (0, 1) that become times, `[batch]`.
        noise: standard normal numbers, shaped like a state, `[batch, ...]`.
        label: the class of each sample, `[batch]`, or None.
        weight: how much each sample counts in the loss, `[batch]`, or None if each counts 1.
    """

    x0: Tensor
    u: Tensor
    noise: Tensor
    label: Tensor | None
    weight: Tensor | None

    def share(self, process: int, processes: int) -> Batch:
        """Every sample of number `process`, `process + processes`, …"""
        mine = slice(process, None, processes)
        label = None if self.label is None else self.label[mine]
        weight = None if self.weight is None else self.weight[mine]
        return Batch(self.x0[mine], self.u[mine], self.noise[mine], label, weight)


class Batches:
    """Draws the batch of each step.

    Args:
        source: where the samples come from.
        units: the map from the samples to the model's units.
        state_shape: of one state of the process.
        classes: the network's number of classes. The class of that number stands for no class. With 0 the conditions
            of the samples are left out.
        recipe: gives the size of a batch, the seed, the share of labels withheld, and the layout in memory.
        device: where the batch goes, and where its random numbers are drawn.
    """

    def __init__(
        self,
        source: Source,
        units: Units,
        state_shape: tuple[int, ...],
        classes: int,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.source, self.units, self.state_shape, self.classes = source, units, state_shape, classes
        self.recipe, self.device = recipe, device
        self.order = Shuffle(len(source), recipe.batch, recipe.seed)
        self.generator = torch.Generator(device)

    def draw(self, step: int) -> Batch:
        """The batch of step 0, 1, …"""
        generator = self.generator.manual_seed(mixed(self.recipe.seed, 2, step))
        record = self.source.records(self.order(step)).to(self.device)
        x0 = self.units.to_model(record.sample, generator)
        u = stratified_uniform(len(x0), generator, self.device)
        noise = torch.randn(len(x0), *self.state_shape, generator=generator, device=self.device)
        label = None if record.condition is None or not self.classes else self._withhold(record.condition)
        if self.recipe.channels_last and x0.ndim == 4:
            x0 = x0.contiguous(memory_format=torch.channels_last)
        return Batch(x0, u, noise, label, record.weight)

    def _withhold(self, label: Tensor) -> Tensor:
        """Labels, a share of them replaced by the class that stands for none."""
        kept = torch.rand(label.shape, generator=self.generator, device=label.device) >= self.recipe.label_dropout
        return torch.where(kept, label, self.classes)
