"""Our times of the timesteps or the noise levels that somebody gives to a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from backdrift.interop.diffusers_scheduler import SchedulerReading
from backdrift.sde import Discrete

ROUNDED = 1.01
"""Noise levels up to this factor above the largest one are taken for it: published lists are rounded."""


def given_times(
    reading: SchedulerReading,
    config: Mapping[str, Any],
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    mu: float | None,
) -> list[float]:
    """Our times of timesteps or of noise levels, of which one is given.

    Args:
        reading: of the scheduler.
        config: of the scheduler, with the entries of `FlowMatchEulerDiscreteScheduler`, such as `shift`.
        timesteps: timesteps of diffusers, as numbers that fall.
        sigmas: noise levels that fall. With a table of betas they are sigma/alpha, and the last one is 0, the data.
            With flow matching they are times, which `FlowMatchEulerDiscreteScheduler` shifts as the config and `mu`
            say, and the step to the data follows the last one.
        mu: the shift where the config has `use_dynamic_shifting`.

    Raises:
        ValueError: if both are given, or the numbers do not fall, or are not within those of the process.
    """
    if timesteps is not None and sigmas is not None:
        raise ValueError("timesteps: expected timesteps or sigmas, got both")
    if timesteps is not None:
        return _times_of_timesteps(reading, _falling("timesteps", timesteps))
    levels = _falling("sigmas", () if sigmas is None else sigmas)
    return _times_of_ratios(reading, levels) if _betas(reading) else _shifted(reading, config, levels, mu)


def _betas(reading: SchedulerReading) -> bool:
    return isinstance(reading.sde, Discrete)


def _times_of_timesteps(reading: SchedulerReading, timesteps: list[float]) -> list[float]:
    most = reading.train_steps - _betas(reading)
    if timesteps[0] > most or timesteps[-1] < 0:
        raise ValueError(f"timesteps: expected numbers from 0 to {most}, got {timesteps}")
    given = torch.tensor(timesteps, dtype=torch.float64)
    times = reading.sde.time(given) if isinstance(reading.sde, Discrete) else given / reading.train_steps
    return cast("list[float]", times.tolist())


def _times_of_ratios(reading: SchedulerReading, ratios: list[float]) -> list[float]:
    sde = reading.sde
    largest = float(sde.sigma(sde.start) / sde.alpha(sde.start))
    if ratios[-1] != 0 or len(ratios) < 2 or ratios[0] > ROUNDED * largest:
        raise ValueError(
            f"sigmas: expected numbers of sigma/alpha from at most {largest:.6g} to a last one of 0, got {ratios}"
        )
    log_snr = -2 * torch.tensor(ratios[:-1], dtype=torch.float64).log()
    return cast("list[float]", sde.t_from_log_snr(log_snr).clamp(max=sde.start).tolist())


def _shifted(reading: SchedulerReading, config: Mapping[str, Any], times: list[float], mu: float | None) -> list[float]:
    known = {name: value for name, value in config.items() if name in _FLOW_KEYS}
    shift = known.pop("shift", config.get("flow_shift")) or 1.0
    theirs: Any = FlowMatchEulerDiscreteScheduler(shift=shift, **known)
    theirs.set_timesteps(sigmas=times, mu=mu)
    return [float(value) / reading.train_steps for value in theirs.timesteps]


_FLOW_KEYS = frozenset(FlowMatchEulerDiscreteScheduler._get_init_keys(FlowMatchEulerDiscreteScheduler)) - {"self"}


def _falling(name: str, given: Sequence[float]) -> list[float]:
    """The numbers of a list, an array or a tensor, which must fall."""
    values = [float(value) for value in given]
    if not values or not all(later < earlier for earlier, later in pairwise(values)):
        raise ValueError(f"{name}: expected numbers that fall from the noise to the data, got {values}")
    return values
