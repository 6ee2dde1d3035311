"""A sweep from its command line to its table, and on again after an interruption."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdrift.runs.configuration import Job, check_option, hydra_configs, one_line
from backdrift.runs.naming import key_of
from backdrift.runs.overrides import combinations, one_at_a_time, parse, quoted, shared
from backdrift.runs.processes import number_of_processes
from backdrift.runs.search_path import config_folder, own_configs
from backdrift.runs.sweeps import study
from backdrift.runs.sweeps.job import Perform, SweepJob
from backdrift.runs.sweeps.lock import locked
from backdrift.runs.sweeps.table import SweepTable

FILE = "sweep.json"
FORMAT = 1

NOT_IN_SWEEPS = {
    "folder": "hydra.sweep.dir and hydra.sweep.subdir choose the folders of several runs",
    "hydra.run.dir": "hydra.sweep.dir and hydra.sweep.subdir choose the folders of several runs",
    "hydra.mode": "-m says that there are several runs",
}
"""Settings that several runs cannot have, and what to take."""


class SweepInterrupted(KeyboardInterrupt):
    """The user has stopped a sweep; the message says how it goes on."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep was asked to do, kept as `sweep.json` in its folder.

    Args:
        command: the command of its jobs.
        overrides: of all jobs, of the sweep and of Hydra, in Hydra's language.
        config_dir: a folder of the user's own configs, or None.
        directory: where the sweep began, from which relative paths start.
    """

    command: str
    overrides: tuple[str, ...]
    config_dir: str | None
    directory: str

    def save(self, folder: Path) -> None:
        """Write `sweep.json`."""
        hidden = folder / f".{FILE}"
        hidden.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")
        hidden.replace(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """Read `sweep.json`.

        Raises:
            ValueError: if it is damaged, or from a later version of this package.
        """
        try:
            read = json.loads((folder / FILE).read_text(encoding="utf-8"))
            version = read.pop("format")
            if version > FORMAT:
                raise ValueError(f"format {version} is from a later version of backdrift, which reads up to {FORMAT}")
            return cls(**{**read, "overrides": tuple(read["overrides"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"run={folder}: its {FILE} cannot be read: {error}") from error

    def job(self) -> Job:
        """The command line."""
        return Job(self.command, self.overrides, self.config_dir)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / FILE).is_file()


def start_sweep(job: Job, perform: Perform) -> None:
    """Check every job of a sweep, make a folder for it, and run it through Hydra's launcher and sweeper.

    Args:
        job: the command line.
        perform: runs a command with a config; a function of a module, as launchers send it to other processes.

    Raises:
        ValueError: before anything is written, if a job's config is wrong or the sweep cannot be run so.
        ValueError: afterwards, if a job failed.
        SweepInterrupted: if the user stops it.
    """
    if number_of_processes() > 1:
        raise ValueError(
            "-m: a sweep is started by one process; start it without torchrun or accelerate launch "
            "(hydra/launcher=joblib runs its jobs side by side)"
        )
    plan = _checked(job)
    chosen = [override for override in plan.overrides if override.key_or_group == "hydra.sweep.dir"]
    folder = _new_folder(plan.folder, is_default=not chosen)
    kept = [str(override.input_line) for override in plan.overrides if override not in chosen]
    config_dir = None if job.config_dir is None else str(Path(job.config_dir).absolute())
    sweep = Sweep(job.command, (*kept, *study.pinned(plan.settings, folder.name)), config_dir, os.getcwd())
    sweep.save(folder)
    _run(sweep, folder, plan.settings, perform)


def resume_sweep(folder: Path, perform: Perform) -> None:
    """Go on with the jobs of a sweep that are missing; arguments and errors are those of `start_sweep`."""
    folder, sweep = folder.absolute(), Sweep.load(folder)
    if Path(sweep.directory).is_dir():
        os.chdir(sweep.directory)
    _run(sweep, folder, _checked(sweep.job()).settings, perform)


@dataclass(frozen=True)
class Plan:
    """A sweep that has been checked: Hydra's settings of it, its overrides, and the folder that it asks for."""

    settings: HydraConf
    overrides: list[Override]
    folder: Path


def _checked(job: Job) -> Plan:
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
    return Plan(settings, overrides, Path(planned).expanduser().absolute())


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


def _new_folder(planned: Path, is_default: bool) -> Path:
    """Make the folder of a sweep.

    Raises:
        ValueError: if the user has chosen it and it holds something, or if it cannot be made.
    """
    number = 1
    while True:
        folder = planned if number == 1 else planned.with_name(f"{planned.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if is_default:
                number += 1
                continue
        except OSError as error:
            raise ValueError(f"hydra.sweep.dir={planned}: no folder can be made there ({error.strerror})") from error
        if is_sweep(folder):
            raise ValueError(f"hydra.sweep.dir={planned}: a sweep is there; backdrift resume run={planned} goes on")
        if not folder.is_dir() or any(folder.iterdir()):
            raise ValueError(f"hydra.sweep.dir={planned}: expected a new or an empty folder")
        return folder


def _run(sweep: Sweep, folder: Path, settings: HydraConf, perform: Perform) -> None:
    """Have Hydra run all jobs; print the table at the end, however that comes."""
    table, again = SweepTable(folder), shlex.join(["backdrift", "resume", f"run={os.path.relpath(folder)}"])
    try:
        with locked(folder / ".lock", wait=False):
            _launch(sweep, folder, settings, perform)
    except BlockingIOError as error:
        raise ValueError(f"run={folder}: another process is working on this sweep") from error
    except KeyboardInterrupt as error:
        raise SweepInterrupted(f"interrupted; {again} goes on with the jobs that are missing") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(one_line(error)) from error
    except BrokenExecutor as error:
        raise ValueError(f"a process of the launcher died: {one_line(error)}; {again} goes on") from error
    except Exception as error:
        failed = [row for row in table.rows() if row.status == "failed"]
        if not failed:
            raise
        raise ValueError(
            f"{len(failed)} of the sweep's jobs failed, job {failed[0].job} with: {failed[0].message}; "
            f"{again} tries again"
        ) from error
    finally:
        if table.csv.is_file():
            print(f"{table.text(shared(sweep.overrides))}\n{table.csv}", flush=True)


def _launch(sweep: Sweep, folder: Path, settings: HydraConf, perform: Perform) -> None:
    """Hand the sweep to Hydra: its sweeper makes the jobs, its launcher runs each as a `SweepJob`."""
    rows = SweepTable(folder).rows()
    if study.trials_left(settings, rows) == 0:
        return
    common = shared(sweep.overrides)
    left_out = [*settings.job.config.override_dirname.exclude_keys, *(key_of(override) for override in common)]
    overrides = [
        *sweep.overrides,
        *study.continued(settings, rows),
        f"hydra.sweep.dir={quoted(str(folder))}",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(quoted, left_out))}]",
    ]
    task = SweepJob(folder, sweep.command, perform, frozenset(common))
    with own_configs(sweep.config_dir), _hydra_command_line(overrides):
        GlobalHydra.instance().clear()
        hydra.main(config_path=str(config_folder()), config_name=sweep.command, version_base="1.3")(task)()


@contextmanager
def _hydra_command_line(overrides: Sequence[str]) -> Iterator[None]:
    """Hydra reads `sys.argv`; told to show errors in full, it raises them for us to shorten."""
    arguments, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [arguments[0], "--multirun", *overrides], "1"
    try:
        yield
    finally:
        sys.argv = arguments
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
