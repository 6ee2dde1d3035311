"""Training to its end, the held-out loss, and the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from accelerate.state import AcceleratorState
from torch.distributed import DistError

from backdrift.runs.interruption import advising
from backdrift.runs.lock import locked
from backdrift.runs.run import Run
from backdrift.runs.working_directory import run_directory
from backdrift.training import held_out
from backdrift.training.trainer import Trainer


def train_new(trainer: Trainer) -> tuple[Run, float | None]:
    """Train into a new run folder, to the end; the run and its held-out loss, which the first process measures."""
    run = trainer.new_run()
    again = f"interrupted; backdrift resume run={run.path} goes on from the last checkpoint"
    with _removed_if_empty(run, trainer.accelerator.is_main_process), advising(again), run_directory(run.path):
        return run, complete(trainer, run)


def complete(trainer: Trainer, run: Run) -> float | None:
    """Train to the end; the first process then measures the held-out loss, which it returns, and writes the report."""
    try:
        with _alone(run, trainer.accelerator.is_main_process):
            return _complete(trainer, run)
    finally:
        # accelerate keeps its precision for the whole process; the next job of a sweep may ask for another.
        AcceleratorState._reset_state()


@contextmanager
def _alone(run: Run, is_main: bool) -> Iterator[None]:
    """Hold the run: of two commands that train it, the second is refused.

    Raises:
        ValueError: if another process trains the run.
    """
    if not is_main:
        yield
        return
    try:
        with locked(run.path / ".lock", wait=False):
            yield
    except BlockingIOError as error:
        raise ValueError(f"run={run.path}: another process is training this run") from error


def _complete(trainer: Trainer, run: Run) -> float | None:
    say = trainer.accelerator.print
    parameters = sum(value.numel() for value in trainer.network.parameters())
    name = type(trainer.network).__name__.removeprefix("FSDP" if trainer.parallel.shards else "")  # torch's own prefix
    where = f"{trainer.accelerator.num_processes} x {trainer.accelerator.device.type}"
    where += ", a part of them on each" if trainer.parallel.shards else ""
    say(f"{trainer.data}\n{name}: {parameters / 1e6:.2f} M parameters on {where}\n{run.path}")
    with _answering(run, trainer.accelerator.num_processes):
        trainer.fit(run)
    loss = None
    if trainer.accelerator.is_main_process:
        measured = held_out.measure(run, trainer.accelerator.device)
        print(measured, flush=True)
        loss = measured.loss
        if run.config.report:
            from backdrift.evaluation import report  # slow to import, for matplotlib and scipy, and only here

            report.write(run, trainer.accelerator.device)
    trainer.accelerator.end_training()
    say(f"done: {run.path}")
    return loss


@contextmanager
def _answering(run: Run, processes: int) -> Iterator[None]:
    """Turn the error by which torch says that another process is gone into one line.

    Raises:
        ConnectionError: with how to go on.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no kind of their own.
        gone = isinstance(error, DistError) or "gloo" in str(error)
        if processes == 1 or not gone:
            raise
        again = f"backdrift resume run={run.path} goes on from the last checkpoint"
        raise ConnectionError(f"another process of this training has ended; {again}") from error


@contextmanager
def _removed_if_empty(run: Run, is_main: bool) -> Iterator[None]:
    """Remove the run's folder if the command ends before the first checkpoint: nothing could go on from there."""
    try:
        yield
    except BaseException as error:
        if not is_main or run.checkpoints():
            raise
        for half_written in (run.path / "checkpoints").glob(".writing-*"):
            shutil.rmtree(half_written, ignore_errors=True)
        run.discard()
        with suppress(OSError):  # other runs are there
            run.path.parent.rmdir()
        if isinstance(error, KeyboardInterrupt):
            raise type(error)("interrupted before the first checkpoint; nothing is kept") from error
        raise
