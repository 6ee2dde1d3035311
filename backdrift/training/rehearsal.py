"""The solver and the likelihood of a config, tried before training, since they are used only after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from backdrift.evaluation.sampling import draw
from backdrift.evaluation.scoring import density_of
from backdrift.runs.configuration import blamed, build
from backdrift.sde import SDE, GaussianSDE, Time


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
        ValueError: if one of them fails, or gives NaN or inf. The message begins with its key.
    """
    _require_finite(sde)
    solver, normal = build(config, "solver"), NormalScore(sde)
    settings: dict[str, Any] = OmegaConf.to_container(config.likelihood)  # type: ignore[assignment]
    if isinstance(settings.get("steps"), int) and "grid" not in settings:
        settings["steps"] = min(settings["steps"], 1)  # enough to check the other settings
    for key, attempt in (
        ("solver", lambda: draw(normal, solver, (1,), 2, seed=0)),
        ("likelihood", lambda: density_of(sde)(normal, torch.zeros(2, 1), **settings).log_prob),
    ):
        try:
            value = attempt()
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise blamed(config, key, error) from error
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"sde, {key}: expected values that give a normal density finite numbers, got {_row(value)}"
            )


def _require_finite(sde: SDE) -> None:
    """Raise `ValueError` unless the ratio of signal to noise is a number from eps to T, if the process is Gaussian.

    At T itself the signal may be 0, but not for most of the time: nothing could be learnt there.
    """
    if not sde.has_denoiser:
        return
    ends = torch.tensor([sde.eps, sde.start], dtype=torch.float64, device="cpu")
    log_snr = cast(GaussianSDE, sde).log_snr(ends)
    if not bool(log_snr.isfinite().all()) or float(log_snr.diff()) >= 0:
        raise ValueError(
            f"sde: expected values at which the logarithm of the signal-to-noise ratio falls from one number at eps = "
            f"{sde.eps:g} to another at T = {sde.T:g}, got {_row(log_snr)}"
        )
    if sde.start < 0.5 * sde.T:
        raise ValueError(
            f"sde: expected values at which something is left of the data for most of the time, got nothing from t = "
            f"{sde.start:.2g} to T = {sde.T:g}"
        )


def _row(value: Tensor) -> list[float]:
    return [float(f"{one:.4g}") for one in value.flatten().tolist()]
