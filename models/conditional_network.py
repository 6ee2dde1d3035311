"""What models made of a network have in common: the condition that they hold, and how the network is called."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from backdrift.models.accepted_condition import accepted_by
from backdrift.models.conditions import Condition, Label, Picture, Vector, as_condition, standardised
from backdrift.sde import DataMoments

Self = TypeVar("Self", bound="ConditionalNetwork")  # typing.Self needs Python 3.11


class ConditionalNetwork(nn.Module):
    """A model made of a network, which can be given a condition.

    The network is called as `network(z, c_noise)`, or as `network(z, c_noise, value)` where there is a condition, with
    the tensor of the condition.

    Args:
        network: the network. Its attribute `accepted`, where it has one, says the condition that it takes.

    Attributes:
        network: the argument.
        condition: what `given` sets, in the units of the network; None without.
        condition_moments: the mean and the variance of each number of the condition, or of each channel
            (`[channels, 1, 1]`), by which `given` standardises it. None where the network takes conditions as they are.
    """

    condition_moments: DataMoments | None = None

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.condition: Condition | None = None

    @property
    def label(self) -> Tensor | None:
        """The classes that `given` set, `[]` or `[batch]`; None without."""
        return self.condition.value if isinstance(self.condition, Label) else None

    def given(self: Self, condition: Condition | Tensor | None) -> Self:
        """The same network, with shared weights, given a condition for all samples, or one for each.

        Vectors and pictures are standardised by `condition_moments`. A NaN in them is a missing number. A vector or a
        picture of NaN, and the class after the last one, are no condition.

        Args:
            condition: a `Label`, `Vector` or `Picture`; a bare tensor of integers is a `Label`. None is no condition.

        Raises:
            TypeError: if it is none of these.
            ValueError: if the network takes another kind, length or number of channels, or has no such class.
        """
        return self._holding(None if condition is None else self._for_network(condition))

    def _holding(self: Self, condition: Condition | None) -> Self:
        """The same network with a condition in its own units."""
        other = copy.copy(self)
        other.condition = condition
        return other

    def _for_network(self, given: Condition | Tensor) -> Condition:
        """A condition in the units and on the device of the network."""
        condition = as_condition(given)
        if not isinstance(condition, (Label, Vector, Picture)):
            raise TypeError(
                f"condition: expected a Label, Vector or Picture, got {type(condition).__name__}; a measurement is for "
                "a guide, such as MMPS(model, measurement)"
            )
        accepted = accepted_by(self.network)
        if accepted is not None:
            accepted.require(condition)
        value = condition.value
        place = next(self.network.parameters(), value)
        if isinstance(condition, Label):
            return Label(value.to(place.device, non_blocking=True))
        return type(condition)(standardised(value, self.condition_moments).to(place))

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The condition goes with the weights, as `to` and `cuda` move them. A buffer would be shared by all of `given`.
        super()._apply(fn, recurse)
        if self.condition is not None:
            self.condition = type(self.condition)(fn(self.condition.value))
        return self

    def select(self: Self, indices: Tensor) -> Self:
        """The same model for the samples at `indices` `[n]` of a batch. Each of them keeps its condition."""
        if self.condition is None or not self.condition.each:
            return self
        return self._holding(self.condition.select(indices))

    def called(self, z: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """The output of the network at z, given a condition where there is one.

        Args:
            z: `[batch, ...]`.
            c_noise: `[batch]`.
            condition: the tensor of a condition, in the units of the network; by default that of `condition`.
        """
        if condition is None and self.condition is not None:
            condition = self.condition.value
        dtype = next(self.network.parameters(), z).dtype
        if dtype in (torch.bfloat16, torch.float16):  # the state is in float32, see `solvers.model.place_of`
            z, c_noise = z.to(dtype), c_noise.to(dtype)
        return self.network(z, c_noise) if condition is None else self.network(z, c_noise, condition)
