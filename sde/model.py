"""What a model is: anything that denoises, or at least has a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from backdrift.sde.gaussian import GaussianSDE
from backdrift.sde.prior import DataMoments
from backdrift.sde.process import SDE, Time
from backdrift.sde.tweedie import tweedie


class HasScore(Protocol):
    """A model that gives the score s(x, t) = grad log p_t(x) of the states of a process, which may be any SDE.

    The state x is `[batch, ...]`. The time t is a 0-d tensor if all samples share it, or `[batch]` with one time for
    each sample.
    """

    @property
    def sde(self) -> SDE:
        """The process."""

    def score(self, x: Tensor, t: Tensor, /) -> Tensor:
        """s(x, t), shaped like `x`."""


class Model(ABC):
    """A model: it has `sde` and `denoise(x, t)`, and the rest follows by Tweedie's formula.

    Networks, closed-form densities and wrapped functions are models. A solver asks for these two only, so any object
    that has them will do, whether or not it is of this class.

    Attributes:
        sde: the process that the times t belong to.
        data_moments: the mean and the variance of each component of the data, or None where they are not known. The
            prior follows from them.
        exact: whether the score is that of a density known in closed form, and not an approximation of one.
    """

    sde: GaussianSDE
    data_moments: DataMoments | None = None
    exact: bool = False

    @abstractmethod
    def denoise(self, x: Tensor, t: Time) -> Tensor:
        """D(x, t) = E[x_0 | x_t = x], shaped like `x` `[batch, ...]`, for a scalar t or `[batch]`."""

    def score(self, x: Tensor, t: Time) -> Tensor:
        """grad log p_t(x) = (alpha D - x)/sigma^2, shaped like `x`."""
        return tweedie(self.denoise(x, t), x, t, self.sde, "denoised", "score")

    def noise(self, x: Tensor, t: Time) -> Tensor:
        """E[eps | x_t = x] = (x - alpha D)/sigma, shaped like `x`."""
        return tweedie(self.denoise(x, t), x, t, self.sde, "denoised", "noise")

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        """dx/dt along the probability flow, f x - g^2/2 score, shaped like `x`."""
        return tweedie(self.denoise(x, t), x, t, self.sde, "denoised", "velocity")
