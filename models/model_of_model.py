"""What models made of another model have in common: guides and guidance."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor

from backdrift.sde import DataMoments, GaussianSDE, Model, Time, as_time

Self = TypeVar("Self", bound="ModelOfModel")  # typing.Self needs Python 3.11


class ModelOfModel(Model):
    """A model made of another one, whose process and data it shares. A subclass gives `denoise`.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.

    Raises:
        TypeError: if the model does not denoise.
    """

    def __init__(self, model: Any) -> None:
        require_denoiser("model", model)
        self.model = model

    @property
    def sde(self) -> GaussianSDE:  # type: ignore[override]
        """The process of the model."""
        return self.model.sde

    @property
    def data_std(self) -> float:
        """The standard deviation of the model's data."""
        return float(getattr(self.model, "data_std", 1.0))

    @property
    def data_moments(self) -> DataMoments | None:  # type: ignore[override]
        """The moments of the model's data. At T a measurement or a weight has little to say."""
        return getattr(self.model, "data_moments", None)

    @property
    def predicts(self) -> str | None:
        """What the model's network predicts, where it says so: its errors reach this denoiser as well."""
        return getattr(self.model, "predicts", None)

    def select(self: Self, indices: Tensor) -> Self:
        """The same for the samples at `indices` `[n]` of a batch."""
        other = copy.copy(self)
        other.model = selected(self.model, indices)
        return other

    def gain(self, x: Tensor, t: Time) -> Tensor:
        """sigma^2/alpha, broadcasting against x. Times the Jacobian of D it is the covariance of x_0 given x_t."""
        t = as_time(t, x)
        return self.sde.sigma(t).square() / self.sde.alpha(t)


def require_denoiser(name: str, model: Any) -> None:
    """Raise `TypeError` unless a model has a process and denoises."""
    if not hasattr(model, "denoise") or not hasattr(model, "sde"):
        remedy = ", which has no process; give it one with `under(sde)`" if hasattr(model, "under") else ""
        got = f"{type(model).__name__}{remedy}"
        raise TypeError(f"{name}: expected an object with `sde` and `denoise(x, t)`, got {got}")


def selected(model: Any, indices: Tensor) -> Any:
    """The model for the samples at `indices` `[n]`; the model itself if it holds nothing for each sample."""
    return model.select(indices) if hasattr(model, "select") else model
