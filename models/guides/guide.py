"""What all guides have in common: a model of a model, conditioned on a measurement."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from backdrift.models.measurement import Measurement
from backdrift.models.model_of_model import ModelOfModel
from backdrift.models.nonlinear_measurement import DifferentiableMeasurement
from backdrift.sde import GaussianSDE, Time, as_time
from backdrift.sde.jacobian import with_graph

Self = TypeVar("Self", bound="Guide")  # typing.Self needs Python 3.11


class Guide(ModelOfModel):
    """The posterior p(x_0 | y) as a model, approximately. A subclass gives `denoise`, the mean of x_0 given x_t and y.

    Solvers, likelihoods and the rest take it as they take any model, also a second guide, for a second measurement: the
    result has derivatives in x where x asks for them. Each sample is guided by its own residual: nothing is averaged
    over the batch.

    Args:
        model: the model of p(x_0), with a Gaussian `sde` and `denoise(x, t)`.
        measurement: y, with its operator and its noise.

    Raises:
        TypeError: if the model does not denoise, or `measurement` is not one.
        ValueError: if the model's process is not Gaussian.
    """

    takes: tuple[type, ...] = (Measurement,)
    """Kinds of measurement."""

    def __init__(self, model: Any, measurement: Any) -> None:
        super().__init__(model)
        if not getattr(model.sde, "has_denoiser", False):
            raise ValueError(f"model: expected a Gaussian process, got {type(model.sde).__name__}")
        if not isinstance(measurement, self.takes):
            kinds = " or a ".join(kind.__name__ for kind in self.takes)
            got = type(measurement).__name__
            if isinstance(measurement, DifferentiableMeasurement):
                got += f", which {type(self).__name__} cannot use; DPS and TMPD can"
            raise TypeError(f"measurement: expected a {kinds}, got {got}")
        self.measurement: Any = measurement  # of one of the kinds that the subclass takes

    def select(self: Self, indices: Tensor) -> Self:
        other = super().select(indices)
        other.measurement = self.measurement.select(indices)
        return other

    def under(self: Self, sde: GaussianSDE) -> Self:
        """The same guide for the times of another process."""
        other = copy.copy(self)
        other.model = self.model.under(sde)
        return other

    def graph(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, bool]:
        """The points of a graph, D there, and whether the graph goes on to x, since derivatives in x are asked for."""
        if torch.is_grad_enabled() and x.requires_grad:
            return x, self.model.denoise(x, t), True
        return *with_graph(lambda z: self.model.denoise(z, t), x), False

    def prior_variance(self, x: Tensor, t: Time) -> Tensor:
        """d^2 sigma^2/(sigma^2 + alpha^2 d^2), broadcasting against x: the variance of x_0 given x_t if the data were
        N(0, d^2 I)."""
        t = as_time(t, x)
        variance, d2 = self.sde.sigma(t).square(), float(self.data_std) ** 2
        return d2 * variance / (variance + self.sde.alpha(t).square() * d2)
