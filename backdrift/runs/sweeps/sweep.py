"""A sweep from its command line to its table, and on again after an interruption."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdrift.runs.configuration import Job, one_line
from backdrift.runs.lock import locked
from backdrift.runs.naming import key_of, numbered
from backdrift.runs.overrides import as_read, quoted, shared
from backdrift.runs.processes import number_of_processes
from backdrift.runs.search_path import config_folder, own_configs
from backdrift.runs.sweeps import study
from backdrift.runs.sweeps.job import Perform, SweepJob
from backdrift.runs.sweeps.job_table import SweepTable
from backdrift.runs.sweeps.plan import checked_plan
from backdrift.runs.sweeps.record import Sweep, is_sweep
from backdrift.runs.sweeps.sweep_page import write_pages
from backdrift.runs.sweeps.trust import require_trusted_sweep


class SweepInterrupted(KeyboardInterrupt):
    """The user has stopped a sweep; the message says how it goes on."""


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
    plan = checked_plan(job)
    kept = [as_read(override) for override in job.overrides if key_of(override) != "hydra.sweep.dir"]
    folder = _new_folder(plan.folder, is_default=len(kept) == len(job.overrides))
    again = _advice(Path(os.path.relpath(folder)), job.config_dir)
    config_dir = None if job.config_dir is None else str(Path(job.config_dir).absolute())
    sweep = Sweep(job.command, (*kept, *study.pinned(plan.settings, folder.name)), config_dir, os.getcwd())
    sweep.save(folder)
    _run(sweep, SweepJob(folder, sweep.command, perform, frozenset(shared(sweep.overrides))), plan.settings, again)


def require_own_keys(config: DictConfig) -> None:
    """Refuse keys of `resume` that a sweep does not read: its jobs go on with what its own command line said.

    Raises:
        ValueError: naming the key.
    """
    for key, default in (("device", "auto"), ("data.changed", "refuse"), ("train.steps", None)):
        value = OmegaConf.select(config, key, default=default)
        if value != default:
            raise ValueError(
                f"{key}={value}: expected a single run, as the jobs of a sweep keep what it was started with"
            )


def resume_sweep(folder: Path, perform: Perform, trust: Sequence[str] = (), config_dir: str | None = None) -> None:
    """Go on with the jobs of a sweep that are missing.

    Args:
        folder: of the sweep.
        perform: as for `start_sweep`.
        trust: packages whose classes the sweep may name, see `backdrift.runs.sweeps.trust`.
        config_dir: the folder of the user's own configs, if the sweep was started with one.

    Raises:
        ValueError: if the sweep asks for something that is not trusted; besides what `start_sweep` raises.
        SweepInterrupted: if the user stops it.
    """
    sweep, again = Sweep.load(folder), _advice(folder, config_dir, trust)
    if sweep.config_dir is not None and config_dir is None:
        raise ValueError(f"run={folder}: the sweep was started with --config-dir {sweep.config_dir}; say so again")
    folder = folder.absolute()
    sweep = replace(sweep, config_dir=None if config_dir is None else str(Path(config_dir).absolute()))
    before = Path.cwd()
    if Path(sweep.directory).is_dir():
        os.chdir(sweep.directory)
    try:
        plan = checked_plan(sweep.job())
        require_trusted_sweep(plan.machinery, plan.searched, folder, trust)
        task = SweepJob(folder, sweep.command, perform, frozenset(shared(sweep.overrides)), tuple(trust))
        _run(sweep, task, plan.settings, again)
    finally:
        os.chdir(before)


def _advice(folder: Path, config_dir: str | None, trust: Sequence[str] = ()) -> str:
    """The command that goes on with a sweep."""
    own = [] if config_dir is None else ["--config-dir", config_dir]
    trusted = [word for package in trust for word in ("--trust", package)]
    return shlex.join(["backdrift", "resume", f"run={folder}", *own, *trusted])


def _new_folder(planned: Path, is_default: bool) -> Path:
    """Make the folder of a sweep.

    Raises:
        ValueError: if the user has chosen it and it holds something, or if it cannot be made.
    """
    for folder in numbered(planned):
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if is_default:
                continue
        except OSError as error:
            raise ValueError(f"hydra.sweep.dir={planned}: no folder can be made there ({error.strerror})") from error
        if is_sweep(folder):
            raise ValueError(f"hydra.sweep.dir={planned}: a sweep is there; backdrift resume run={planned} goes on")
        if not folder.is_dir() or any(folder.iterdir()):
            raise ValueError(f"hydra.sweep.dir={planned}: expected a new or an empty folder")
        return folder
    raise AssertionError("numbers do not end")


def _run(sweep: Sweep, task: SweepJob, settings: HydraConf, again: str) -> None:
    """Have Hydra run all jobs; print the table at the end, however that comes. `again` is the command to go on with."""
    folder, table = task.folder, SweepTable(task.folder)
    try:
        with locked(folder / ".lock", wait=False):
            _launch(sweep, task, settings)
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
            write_pages(folder, sweep.command, table.rows(), task.common)
            print(f"{table.text(task.common)}\n{table.csv}", flush=True)


def _launch(sweep: Sweep, task: SweepJob, settings: HydraConf) -> None:
    """Hand the sweep to Hydra: its sweeper makes the jobs, its launcher runs each as a `SweepJob`."""
    rows = SweepTable(task.folder).rows()
    if study.trials_left(settings, rows) == 0:
        return
    left_out = [
        *settings.job.config.override_dirname.exclude_keys,
        *(key_of(override) for override in sorted(task.common)),
    ]
    overrides = [
        *sweep.overrides,
        *study.continued(settings, rows),
        f"hydra.sweep.dir={quoted(str(task.folder))}",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(quoted, left_out))}]",
    ]
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
