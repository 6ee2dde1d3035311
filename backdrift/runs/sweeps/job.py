"""One job of a sweep, as a launcher of Hydra's calls it: in this process, in another one or on another machine."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf, open_dict

from backdrift.runs.command_line import as_command_line
from backdrift.runs.configuration import one_line, resolve_names
from backdrift.runs.listing import last_step
from backdrift.runs.lock import locked
from backdrift.runs.naming import register_resolver
from backdrift.runs.sweeps.job_table import Row, SweepTable, key_of_job

Perform = Callable[[str, DictConfig], Any]
"""Runs a command with its config, and returns its objective: a number, or None."""

register_resolver()  # before Hydra names the folder of the first job, in a process that a launcher has started


@dataclass(frozen=True)
class SweepJob:
    """What each job of a sweep does. Launchers send it to other processes.

    A finished job with the same overrides answers at once; an interrupted one goes on from its checkpoint. While
    a job runs it holds a lock on its overrides: another process that wants the same job waits for its answer.

    Args:
        folder: the folder of the sweep.
        command: the command.
        perform: runs the command.
        common: overrides that all jobs share, which need not be shown.
        trust: packages whose classes a run folder that is gone on with may name.
    """

    folder: Path
    command: str
    perform: Perform
    common: frozenset[str] = frozenset()
    trust: tuple[str, ...] = ()

    def __call__(self, config: DictConfig) -> float | None:
        """Do the job of this config, whose number and overrides are in `HydraConfig`; its objective.

        Raises:
            ValueError: if a failed job stays failed, see `_stays_failed`.
            Exception: what the command raises. The row then says that the job failed, and why.
        """
        hydra, table = HydraConfig.get(), SweepTable(self.folder)
        overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        number, output = int(hydra.job.num), Path(hydra.runtime.output_dir)
        table.jobs.mkdir(exist_ok=True)
        with locked(table.jobs / f".{key_of_job(overrides)}.lock"):
            row = table.find(number, overrides)
            if row is not None and row.status == "finished":
                if row.job != number:
                    table.write(replace(row, job=number))
                return row.objective
            if row is not None and row.status == "failed" and _stays_failed(hydra):
                raise ValueError(row.message)
            shown = shlex.join(override for override in overrides if override not in self.common)
            print(f"[job {number}] {shown}", flush=True)
            return self._do(config, row or Row(number, "running", None, "", tuple(overrides)), output, table)

    def _do(self, config: DictConfig, row: Row, output: Path, table: SweepTable) -> float | None:
        """Run the command, from the row's checkpoint where it has one, and keep the row up to date."""
        resolve_names(config)
        _keep_paths(config)
        makes_run = "folder" in config
        resumes = makes_run and row.folder != "" and last_step(self.folder / row.folder) is not None
        if makes_run and not resumes:
            row = table.add(replace(row, status="running", message=""), output)
        else:
            row = replace(row, status="running", message="")
            table.write(row)
        path = self.folder / row.folder
        if not makes_run or path != output:
            with suppress(OSError):  # Hydra has made the folder, and nothing will be in it
                output.rmdir()
        try:
            with as_command_line([self.command, *row.overrides]):
                if resumes:
                    again = {"run": str(path), "trust": list(self.trust), "device": config.get("device", "auto")}
                    answer = self.perform("resume", OmegaConf.create(again))
                else:
                    if makes_run:
                        with open_dict(config):
                            config.folder = str(path)
                    answer = self.perform(self.command, config)
        except Exception as error:
            known = isinstance(error, (ValueError, OSError, FloatingPointError))
            message = one_line(error) if known else f"{type(error).__name__}: {one_line(error)}"
            table.write(replace(row, status="failed", message=message))
            raise
        except BaseException:
            table.write(replace(row, status="interrupted"))
            raise
        objective = None if answer is None else float(answer)
        table.write(replace(row, status="finished", objective=objective))
        return objective


def _stays_failed(hydra: HydraConf) -> bool:
    """Whether a failed job is not tried again.

    A sweeper that tolerates failures (`hydra.sweeper.max_failure_rate` above 0) has chosen later trials knowing of
    this one: to choose the same ones again it must see the same failure.
    """
    return bool(OmegaConf.select(hydra.sweeper, "max_failure_rate", default=0.0))


def _keep_paths(config: DictConfig) -> None:
    """Where Hydra has changed the directory, relative paths still start from where the sweep began."""
    if Path.cwd() == Path(HydraConfig.get().runtime.cwd):
        return
    for key in ("run", "runs", "data.path"):
        value = OmegaConf.select(config, key)
        if value is not None:
            OmegaConf.update(config, key, to_absolute_path(str(Path(str(value)).expanduser())))
