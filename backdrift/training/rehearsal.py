"""A solver and a likelihood tried before training, so that no mistake in them waits for its end."""

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
    """A process with the score of N(0, 1) at all times, in place of a model."""

    sde: SDE

    def score(self, x: Tensor, t: Time) -> Tensor:
        return -x


def rehearse(config: DictConfig, sde: SDE) -> None:
    """Solve and score two points of a normal density: no mistake in what comes after training waits for its end.

    Raises:
        ValueError: beginning with the key at fault.
    """
    solver, normal = build(config, "solver"), NormalScore(sde)
    settings: dict[str, Any] = OmegaConf.to_container(config.likelihood)  # type: ignore[assignment]
    if isinstance(settings.get("steps"), int) and "grid" not in settings:
        settings["steps"] = min(settings["steps"], 1)  # enough to judge the others
    for key, attempt in (
        ("solver", lambda: draw(normal, solver, (1,), 2, seed=0)),
        ("likelihood", lambda: density_of(sde)(normal, torch.zeros(2, 1), **settings)),
    ):
        try:
            attempt()
        except (TypeError, ValueError, RuntimeError) as error:
            raise blamed(config, key, error) from error
