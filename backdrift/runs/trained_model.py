"""What a trained model is, and what makes one of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from omegaconf import DictConfig
from torch import Tensor, nn

from backdrift.data import DataCard
from backdrift.models import Condition, Denoiser
from backdrift.runs.configuration import build
from backdrift.sde import SDE


class TrainedModel(Protocol):
    """A network made into a model: it gives the score, and for Gaussian processes the denoiser as well.

    `given(condition)` is the same model given a class, a vector or a picture, in its own units.

    Attributes:
        sde: the process.
        network: what was trained.
    """

    @property
    def sde(self) -> SDE: ...

    @property
    def network(self) -> nn.Module: ...

    def score(self, x: Tensor, t: Tensor, /) -> Tensor: ...

    def given(self, condition: Condition | Tensor | None, /) -> TrainedModel: ...


def take_moments(model: Any, card: DataCard) -> None:
    """Hand the moments of the data, and those of the conditions where there are any, to a model."""
    model.data_moments = card.moments
    if card.conditions is not None:
        model.condition_moments = card.conditions.moments


def preconditioning(config: DictConfig) -> Callable[[nn.Module, Any, float], Any]:
    """What makes a model of a network, a process and the data's standard deviation; `Denoiser` in configs without."""
    return build(config, "preconditioning") if "preconditioning" in config else Denoiser
