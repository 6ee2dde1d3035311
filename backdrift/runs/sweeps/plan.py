"""The plan of a sweep: its jobs composed and checked before the first one starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from backdrift.runs.configuration import Job, check_option, hydra_configs
from backdrift.runs.overrides import combinations, one_at_a_time, parse

NOT_IN_SWEEPS = {
    "folder": "hydra.sweep.dir and hydra.sweep.subdir choose the folders of several runs",
    "hydra.run.dir": "hydra.sweep.dir and hydra.sweep.subdir choose the folders of several runs",
    "hydra.mode": "-m says that there are several runs",
    "hydra.searchpath": "--config-dir adds a folder of configs",
}
"""Settings that several runs cannot have, and what to take."""


@dataclass(frozen=True)
class Plan:
    """A sweep that has been checked.

    Attributes:
        settings: Hydra's settings of it.
        machinery: its overrides of Hydra's settings.
        searched: its other overrides, after those of `hydra.sweeper.params`.
        folder: where it asks to be.
    """

    settings: HydraConf
    machinery: list[Override]
    searched: list[Override]
    folder: Path


def checked_plan(job: Job) -> Plan:
    """The plan of a sweep, once the config of every job has been composed and checked.

    Hydra's basic sweeper makes a job of each combination of values. Other sweepers choose: for them each value is
    tried once, with the first values of the others, and an interval at its ends.
    """
    with hydra_configs(job.config_dir) as loader:
        overrides = parse(job.overrides, loader)
        for override in overrides:
            if override.key_or_group in NOT_IN_SWEEPS:
                raise ValueError(f"{override.key_or_group}: not with -m; {NOT_IN_SWEEPS[override.key_or_group]}")
            check_option(override, loader)
        machinery = [override for override in overrides if override.is_hydra_override()]
        first = parse(one_at_a_time(overrides)[0], loader)
        job.compose(first, loader)
        settings = HydraConfig.get()
        planned = str(settings.sweep.dir)  # while what it refers to is there
        searched = parse([f"{key}={value}" for key, value in (settings.sweeper.get("params") or {}).items()], loader)
        searched += [override for override in overrides if override not in machinery]
        basic = settings.runtime.choices["hydra/sweeper"] == "basic"
        _check_objective(job.command, settings)
        jobs = combinations(searched) if basic else one_at_a_time(searched)
    for each in jobs:
        Job(job.command, each, job.config_dir).config()
    return Plan(settings, machinery, searched, Path(planned).expanduser().absolute())


def _check_objective(command: str, settings: HydraConf) -> None:
    """Raise `ValueError` if the sweeper wants another objective than the command's one number, or none."""
    sweeper = settings.runtime.choices["hydra/sweeper"]
    if sweeper == "basic":
        return
    if command != "train":
        raise ValueError(f"hydra/sweeper={sweeper}: it chooses by a number, and `backdrift {command}` returns none")
    direction = OmegaConf.select(settings.sweeper, "direction")
    if OmegaConf.is_list(direction) and len(direction) != 1:
        raise ValueError(
            f"hydra.sweeper.direction={list(direction)}: expected one direction, as train returns one number, "
            "the held-out loss"
        )
