"""The condition that a network takes: classes, vectors or pictures, and the checks of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from backdrift.models.conditions import Condition, Label, Picture, Vector
from backdrift.models.labels import require_labels
from backdrift.sde.tensor_checks import extremes
from backdrift.sde.value_types import Range

Classes = Annotated[int, Range(least=0, most=1_000_000)]
Length = Annotated[int, Range(least=0, most=65_536)]
"""The length of a vector, or the channels of a picture. The weights of a larger one would not fit in memory."""


@dataclass(frozen=True)
class AcceptedCondition:
    """The condition that a network takes. A network says it by its attribute `accepted`.

    Attributes:
        kind: `Label`, `Vector` or `Picture`, or None for an unconditional network.
        size: the number of classes, the length of a vector, or the channels of a picture; 0 without a condition.
    """

    kind: type[Condition] | None = None
    size: int = 0

    @classmethod
    def of(cls, classes: int = 0, vector: int = 0, picture: int = 0) -> AcceptedCondition:
        """The condition of the one argument that is above 0.

        Raises:
            ValueError: if more than one is.
        """
        given = {"classes": classes, "vector": vector, "picture": picture}
        chosen = [name for name, size in given.items() if size]
        if len(chosen) > 1:
            values = ", ".join(f"{name}={given[name]}" for name in chosen)
            raise ValueError(f"{chosen[1]}: expected 0, as a network takes one kind of condition, got {values}")
        kinds = {"classes": Label, "vector": Vector, "picture": Picture}
        return cls(kinds[chosen[0]], given[chosen[0]]) if chosen else cls()

    def require(self, condition: Condition) -> None:
        """Raise unless a condition is one that the network takes.

        Raises:
            ValueError: if it is of another kind, or has another length, other channels, or a class that is unknown.
        """
        if self.kind is not Label and isinstance(condition, self.kind or Label):
            self.require_value(condition.value)
        elif isinstance(condition, Label) and self.kind in (None, Label):
            require_labels(condition.value, self.size)
        else:
            known = "none, since" if self.kind is None else f"{self.what}, as"
            end = "the network is unconditional" if self.kind is None else "the network takes"
            raise ValueError(f"condition: expected {known} {end}, got a {type(condition).__name__}")

    def require_value(self, value: Tensor, batch: int | None = None) -> None:
        """Raise unless a tensor is a value of the condition, one for all samples or one for each of `batch`.

        Raises:
            TypeError: if it is of another dtype.
            ValueError: if it has another shape, a class is unknown, or a number is infinite.
        """
        if self.kind is None or self.kind is Label:
            require_labels(value, self.size, batch)
            return
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"condition: expected a tensor of floating-point numbers, got {got}")
        axes, lead = self.kind.axes, value.shape[: value.ndim - self.kind.axes]
        fits = value.ndim in (axes, axes + 1) and value.shape[value.ndim - axes] == self.size
        if not fits or (batch is not None and lead not in ((), (batch,))):
            single = f"{self.size}" if axes == 1 else f"{self.size}, height, width"
            each = "batch" if batch is None else batch
            raise ValueError(f"condition: expected shape [{single}] or [{each}, {single}], got {list(value.shape)}")
        found = extremes(value.nan_to_num(0.0, math.inf, -math.inf)) if value.device.type == "cpu" else None
        if found is not None and math.inf in (-found[0], found[1]):
            raise ValueError("condition: expected finite numbers, or NaN for missing ones, got inf")

    @property
    def what(self) -> str:
        """The condition in words."""
        if self.kind is None:
            return "no condition"
        if self.kind is Label:
            return f"a Label from 0 to {self.size - 1}"
        return f"a {self.kind.__name__} of {self.size} {'numbers' if self.kind is Vector else 'channels'}"

    def beside(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """The picture that each image is given, with its mask: channels for a network to see beside those of the image.

        Args:
            x: the images, `[batch, channels, height, width]`.
            condition: pictures of `size` channels, `[size, height, width]` or `[batch, size, height, width]`, with NaN
                for missing numbers. None is a picture of which nothing is known.

        Returns:
            `[batch, 2 size, height, width]`, see `with_mask`, in the dtype of x.

        Raises:
            TypeError: if the pictures do not hold floating-point numbers.
            ValueError: if their shape does not fit, or a number is infinite.
        """
        batch, size = x.shape[0], x.shape[2:]
        if condition is None:
            return x.new_zeros(batch, 2 * self.size, *size)
        self.require_value(condition, batch)
        if condition.shape[-2:] != size:
            raise ValueError(
                f"condition: expected pictures of {size[0]} x {size[1]} pixels, as the state has, got "
                f"{condition.shape[-2]} x {condition.shape[-1]}"
            )
        return with_mask(condition.to(x.dtype), -3).expand(batch, -1, -1, -1)


def accepted_by(network: object) -> AcceptedCondition | None:
    """The condition that a network takes, as it says by `accepted`; None if it does not.

    The network may be wrapped for distributed training.
    """
    accepted = getattr(getattr(network, "module", network), "accepted", None)
    return accepted if isinstance(accepted, AcceptedCondition) else None


def classes_of(network: object) -> int:
    """The number of classes that a network says it takes; 0 where it takes none, or does not say."""
    accepted = accepted_by(network)
    return accepted.size if accepted is not None and accepted.kind is Label else 0


def with_mask(value: Tensor, axis: int) -> Tensor:
    """A condition with 0 for its missing numbers (NaN), and along `axis` after it a mask, 1 where a number is known."""
    known = ~value.isnan()
    return torch.cat((torch.where(known, value, 0.0), known.to(value.dtype)), axis)
