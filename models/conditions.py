"""What a model can be conditioned on: a class, a vector, a picture, or a measurement (see `models.measurement`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.models.labels import require_labels
from backdrift.sde import DataMoments


@dataclass(frozen=True, eq=False)
class Condition:
    """A value that a model is conditioned on, one for all samples or one for each.

    Args:
        value: see the subclasses. With one axis more than a single value has, it holds one value for each sample.

    Raises:
        TypeError: if `value` is not a tensor of the right kind.
        ValueError: if it has another number of axes.
    """

    value: Tensor

    axes = 0
    """Axes of a single value."""

    def __post_init__(self) -> None:
        if not isinstance(self.value, Tensor):
            raise TypeError(f"value: expected a tensor, got {type(self.value).__name__}")
        if self.value.ndim not in (self.axes, self.axes + 1):
            raise ValueError(
                f"value: expected {self.axes} axes for all samples, or {self.axes + 1} with one value for each sample, "
                f"got shape {list(self.value.shape)}"
            )

    @property
    def each(self) -> bool:
        """Whether there is one value for each sample."""
        return self.value.ndim > self.axes

    def select(self, indices: Tensor) -> Condition:
        """The condition of the samples at `indices` `[n]`."""
        return type(self)(self.value[indices]) if self.each else self


class Label(Condition):
    """A class.

    Args:
        value: integers, `[]` for one class of all samples, or `[batch]` for one of each.

    Raises:
        TypeError: if `value` is not a tensor of integers.
        ValueError: if it has more than one axis.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value.is_floating_point() or self.value.is_complex() or self.value.dtype == torch.bool:
            raise TypeError(f"value: expected integer class indices, got a tensor of {self.value.dtype}")


class Vector(Condition):
    """A vector of numbers. NaN is a missing number.

    Args:
        value: `[d]` for one vector of all samples, or `[batch, d]` for one of each.

    Raises:
        TypeError: if `value` is not a tensor.
        ValueError: if it has another number of axes.
    """

    axes = 1


class Picture(Condition):
    """A picture. NaN is a missing pixel.

    Args:
        value: `[channels, height, width]` for one picture of all samples, or `[batch, channels, height, width]` for one
            of each.

    Raises:
        TypeError: if `value` is not a tensor.
        ValueError: if it has another number of axes.
    """

    axes = 3


def standardised(value: Tensor, moments: DataMoments | None) -> Tensor:
    """(value - mean)/sqrt(variance) in float64: a large mean must not eat the digits of a small spread.

    Args:
        value: vectors or pictures in their own units.
        moments: of them; None leaves them as they are.
    """
    if moments is None:
        return value
    value = (value.cpu() if value.device.type == "mps" else value).double()  # such a device has no float64
    return (value - moments.mean.to(value)) / moments.variance.to(value).sqrt()


def as_condition(value: object) -> object:
    """`value`, where a bare tensor of integers becomes a `Label`. Nothing else is guessed.

    Raises:
        TypeError: if it is a tensor of another kind, or a plain number.
        ValueError: if a bare tensor of integers has more than one axis.
    """
    if isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool:
        require_labels(value)
        return Label(value)
    if isinstance(value, (Tensor, int, float, str, list, tuple)):
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"condition: expected a Label, Vector, Picture or Measurement, got {got}")
    return value
