"""What all guides have in common: a model of a model, conditioned on a measurement."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from backdrift.models.measurement import Measurement
from backdrift.sde import DataMoments, GaussianSDE, Model, Time, as_time


class Guide(Model):
    """The posterior p(x_0 | y) as a model, approximately. A subclass gives `denoise`, the mean of x_0 given x_t and y.

    Solvers, likelihoods and the rest take it as they take any model. Each sample is guided by its own residual: nothing
    is averaged over the batch.

    Args:
        model: the model of p(x_0), with a Gaussian `sde` and `denoise(x, t)`.
        measurement: y, with its operator and its noise.

    Raises:
        TypeError: if the model does not denoise, or `measurement` is not one.
        ValueError: if the model's process is not Gaussian.
    """

    def __init__(self, model: Any, measurement: Measurement) -> None:
        if not hasattr(model, "denoise") or not hasattr(model, "sde"):
            raise TypeError(f"model: expected an object with `sde` and `denoise(x, t)`, got {type(model).__name__}")
        if not getattr(model.sde, "has_denoiser", False):
            raise ValueError(f"model: expected a Gaussian process, got {type(model.sde).__name__}")
        if not isinstance(measurement, Measurement):
            raise TypeError(f"measurement: expected a Measurement, got {type(measurement).__name__}")
        self.model, self.measurement = model, measurement

    @property
    def sde(self) -> GaussianSDE:  # type: ignore[override]
        """The process of the model."""
        return self.model.sde

    @property
    def data_std(self) -> float:
        """The standard deviation of the data without the measurement."""
        return float(getattr(self.model, "data_std", 1.0))

    @property
    def data_moments(self) -> DataMoments | None:  # type: ignore[override]
        """The moments of the data without the measurement: at T it has little to say."""
        return getattr(self.model, "data_moments", None)

    def select(self, indices: Tensor) -> Guide:
        """The guide of the samples at `indices` `[n]` of a batch."""
        other = copy.copy(self)
        own = getattr(self.model, "select", None)
        other.model = self.model if own is None else own(indices)
        other.measurement = self.measurement.select(indices)
        return other

    def under(self, sde: GaussianSDE) -> Guide:
        """The same guide for the times of another process."""
        other = copy.copy(self)
        other.model = self.model.under(sde)
        return other

    def gain(self, x: Tensor, t: Time) -> Tensor:
        """sigma^2/alpha, broadcasting against x. Times the Jacobian of D it is the covariance of x_0 given x_t."""
        t = as_time(t, x)
        return self.sde.sigma(t).square() / self.sde.alpha(t)

    def prior_variance(self, x: Tensor, t: Time) -> Tensor:
        """d^2 sigma^2/(sigma^2 + alpha^2 d^2), broadcasting against x: the variance of x_0 given x_t if the data were
        N(0, d^2 I)."""
        t = as_time(t, x)
        variance, d2 = self.sde.sigma(t).square(), float(self.data_std) ** 2
        return d2 * variance / (variance + self.sde.alpha(t).square() * d2)
