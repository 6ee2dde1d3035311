"""Training to its end, the held-out loss, and the report."""

from __future__ import annotations

from accelerate.state import AcceleratorState

from backdrift.evaluation import report
from backdrift.runs.run import Run
from backdrift.training import held_out
from backdrift.training.trainer import Trainer


def complete(trainer: Trainer, run: Run) -> float | None:
    """Train to the end; the first process then measures the held-out loss, which it returns, and writes the report."""
    try:
        return _complete(trainer, run)
    finally:
        # accelerate keeps its precision for the whole process; the next job of a sweep may ask for another.
        AcceleratorState._reset_state()


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
            report.write(run)
    trainer.accelerator.end_training()
    say(f"done: {run.path}")
    return loss
