"""Training to its end, and the report after it."""

from __future__ import annotations

from backdrift.evaluation import report
from backdrift.runs.run import Run
from backdrift.training.trainer import Trainer


def complete(trainer: Trainer, run: Run) -> None:
    """Train to the end, and report (by the first process)."""
    say = trainer.accelerator.print
    parameters = sum(value.numel() for value in trainer.network.parameters())
    where = f"{trainer.accelerator.num_processes} x {trainer.accelerator.device.type}"
    say(f"{trainer.data}\n{type(trainer.network).__name__}: {parameters / 1e6:.2f} M parameters on {where}\n{run.path}")
    trainer.fit(run)
    if run.config.report and trainer.accelerator.is_main_process:
        report.write(run)
    trainer.accelerator.end_training()
    say(f"done: {run.path}")
