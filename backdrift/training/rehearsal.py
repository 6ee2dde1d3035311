"""The solver and the likelihood of a config, tried before training, since they are used only after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from backdrift.evaluation.sampling import draw
from backdrift.evaluation.scoring import density_of
from backdrift.runs.configuration import blamed, build
from backdrift.sde import SDE, Time


@dataclass(frozen=True)
class NormalScore:
    """A model for trials: the score of N(0, I) at all times, under any process."""

    sde: SDE

    def score(self, x: Tensor, t: Time) -> Tensor:
        return -x


def rehearse(config: DictConfig, sde: SDE) -> None:
    """Sample and score two points of a normal density with the config's solver and likelihood.

    A mistake in them is then found before training, not at its end.

    Raises:
        ValueError: if one of them fails. The message begins with its key.
    """
    solver, normal = build(config, "solver"), NormalScore(sde)
    settings: dict[str, Any] = OmegaConf.to_container(config.likelihood)  # type: ignore[assignment]
    if isinstance(settings.get("steps"), int) and "grid" not in settings:
        settings["steps"] = min(settings["steps"], 1)  # enough to check the other settings
    for key, attempt in (
        ("solver", lambda: draw(normal, solver, (1,), 2, seed=0)),
        ("likelihood", lambda: density_of(sde)(normal, torch.zeros(2, 1), **settings)),
    ):
        try:
            attempt()
        except (TypeError, ValueError, RuntimeError) as error:
            raise blamed(config, key, error) from error
