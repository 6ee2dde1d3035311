"""Train a model on a data set, then draw samples, score the test set and write a report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from omegaconf import DictConfig

from backdrift.runs.interruption import advising
from backdrift.runs.run import Run
from backdrift.runs.working_directory import run_directory
from backdrift.training.completion import complete
from backdrift.training.trainer import Trainer


def main(config: DictConfig) -> float | None:
    """Train into a new run folder; the held-out loss, which a sweep makes small (None in processes but the first)."""
    trainer = Trainer(config)
    run = trainer.new_run()
    again = f"interrupted; backdrift resume run={run.path} goes on from the last checkpoint"
    with _removed_if_empty(run, trainer.accelerator.is_main_process), advising(again), run_directory(run.path):
        return complete(trainer, run)


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
