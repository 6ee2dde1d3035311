"""What a scheduler of diffusers says: the process, what the network predicts, and the spacing of times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from backdrift.sde import Discrete, GaussianSDE, Kind, Rectified
from backdrift.sde.checks import require_choice, require_integer

PREDICTS: dict[str, Kind] = {
    "epsilon": "noise",
    "sample": "denoised",
    "v_prediction": "v",
    "flow": "velocity",
    "flow_prediction": "velocity",
}
"""The prediction types of diffusers in the words of `sde.tweedie`."""

SPACINGS = ("leading", "trailing", "linspace")

Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class SchedulerReading:
    """The process and the conventions behind a scheduler.

    Attributes:
        sde: the process: `Discrete` for a table of betas, `Rectified` with T = 1 for flow matching.
        predicts: what the network returns.
        train_steps: N, the number of timesteps in training.
        spacing: how diffusers chooses timesteps, see `times`.
        steps_offset: what diffusers adds to each timestep with the spacing "leading".
        clip: the largest magnitude of the denoiser, or None.
    """

    sde: GaussianSDE
    predicts: Kind
    train_steps: int
    spacing: Spacing
    steps_offset: int
    clip: float | None

    def timestep(self, t: Tensor) -> Tensor:
        """The timestep that the network is called with at time t."""
        return self.sde.timestep(t) if isinstance(self.sde, Discrete) else self.train_steps * t

    def times(self, steps: int, spacing: Spacing | None = None) -> list[float]:
        """Our times of the timesteps that diffusers' `DDIMScheduler` takes, for the argument `grid` of a solver.

        With k = N/steps, rounded down, "leading" is 0, k, 2k, ... plus `steps_offset`; "trailing" is N - 1,
        N - 1 - N/steps, ..., rounded; and "linspace" is even from N - 1 to 0, rounded (Lin et al. 2023, table 2).

        With "linspace" the samples of diffusers' `DDIMScheduler` are not those of these times. It evaluates the network
        at them, but each of its steps ends N/steps before its time, rounded down, and not at the next time, which is
        (N - 1)/(steps - 1) before it. The network is then told less noise than the state has. The same happens with
        "trailing" where N is not a multiple of the steps. Here each step ends where the next one begins. Elsewhere the
        samples agree to rounding.

        Args:
            steps: the number of evaluations.
            spacing: by default that of the config.

        Raises:
            ValueError: if `steps` is not from 1 to N, `spacing` is none of the three, or the process is not a table.
        """
        spacing = self.spacing if spacing is None else spacing
        require_choice("spacing", spacing, SPACINGS)
        require_integer("steps", steps, 1, self.train_steps)
        if not isinstance(self.sde, Discrete):
            raise ValueError("spacing: expected a scheduler with a table of betas, got one of flow matching")
        n = self.train_steps
        if spacing == "leading":
            chosen = np.arange(steps, dtype=np.float64)[::-1] * (n // steps) + self.steps_offset
        elif spacing == "trailing":
            chosen = np.round(np.arange(n, 0, -n / steps)) - 1
        else:
            chosen = np.linspace(0, n - 1, steps).round()[::-1]
        return cast(list[float], self.sde.time(torch.from_numpy(chosen.copy())).tolist())


def read_scheduler(scheduler: Any) -> SchedulerReading:
    """Read a scheduler of diffusers.

    The table of a scheduler is taken as it is, in the float32 numbers that the network was trained with.

    Args:
        scheduler: an object with `config` and, unless it is one of flow matching, `alphas_cumprod`.

    Raises:
        ValueError: if its conventions are not those of any process here. The message names the entry of the config.
    """
    config = cast("Mapping[str, Any]", scheduler.config)
    prediction = config.get("prediction_type")
    flow = prediction == "flow_prediction" or (prediction is None and "FlowMatch" in type(scheduler).__name__)
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None and not flow:
        raise ValueError(
            "scheduler: expected one with a table alphas_cumprod, or of flow matching, got "
            f"{type(scheduler).__name__}; for networks of EDM take interop.from_edm"
        )
    _require_usual(config, ("timestep_type", "invert_sigmas"))
    if config.get("thresholding"):
        raise ValueError(
            "thresholding: expected False, since it makes the samples follow no density; set it so in the scheduler's "
            "config, which clips as clip_sample says, got True"
        )
    kind = "flow" if flow else prediction
    require_choice("prediction_type", kind, tuple(PREDICTS))
    sde = Rectified(T=1.0) if flow else Discrete(cast(Tensor, table).double())
    if PREDICTS[cast(str, kind)] == "noise" and _ends_without_signal(config, sde):
        raise ValueError(
            "prediction_type: expected 'v_prediction' or 'sample' with rescale_betas_zero_snr, since the noise says "
            "nothing about the data where alpha = 0, got 'epsilon'"
        )
    return SchedulerReading(
        sde=sde,
        predicts=PREDICTS[cast(str, kind)],
        train_steps=int(config["num_train_timesteps"]),
        spacing=config.get("timestep_spacing", "leading"),
        steps_offset=int(config.get("steps_offset", 0) or 0),
        clip=float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else None,
    )


def require_known_config(config: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless the process, the timesteps and the network can be told from the config alone."""
    if config.get("prediction_type") != "flow_prediction" and "beta_schedule" not in config:
        raise ValueError("beta_schedule: expected the config of a scheduler with one, or of flow matching, got neither")
    _require_usual(config, tuple(_USUAL))
    if str(config.get("variance_type")).startswith("learned"):
        raise ValueError("variance_type: expected a network without a learned variance, got one with it")


_USUAL = {"timestep_type": "discrete", "invert_sigmas": False, "snr_shift_scale": 1.0}
"""Entries that change the process or its timesteps, with the one value that is read rightly."""


def _require_usual(config: Mapping[str, Any], entries: tuple[str, ...]) -> None:
    for entry in entries:
        if config.get(entry, _USUAL[entry]) != _USUAL[entry]:
            raise ValueError(f"{entry}: expected {_USUAL[entry]!r}, got {config[entry]!r}")


def _ends_without_signal(config: Mapping[str, Any], sde: GaussianSDE) -> bool:
    """Whether alpha is 0 at T, or the 2^-12 that several schedulers have in its place."""
    return bool(config.get("rescale_betas_zero_snr")) or float(sde.alpha(sde.T)) == 0
