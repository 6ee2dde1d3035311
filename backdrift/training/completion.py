"""Training to its end, the held-out loss, and the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.state import AcceleratorState

from backdrift.runs.lock import locked
from backdrift.runs.run import Run
from backdrift.training import held_out
from backdrift.training.trainer import Trainer


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
    where = f"{trainer.accelerator.num_processes} x {trainer.accelerator.device.type}"
    say(f"{trainer.data}\n{type(trainer.network).__name__}: {parameters / 1e6:.2f} M parameters on {where}\n{run.path}")
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
