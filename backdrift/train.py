"""Train a model on a data set, then draw samples, score the test set and write a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:
    from backdrift.run import Run
    from backdrift.training import Trainer


def main(config: DictConfig) -> None:
    """Train into a new run folder."""
    from backdrift.training import Trainer

    trainer = Trainer(config)
    complete(trainer, trainer.new_run())


def complete(trainer: Trainer, run: Run) -> None:
    """Train to the end, and report (by the first process)."""
    say = trainer.accelerator.print
    parameters = sum(value.numel() for value in trainer.network.parameters())
    where = f"{trainer.accelerator.num_processes} x {trainer.accelerator.device.type}"
    say(f"{trainer.data}\n{type(trainer.network).__name__}: {parameters / 1e6:.2f} M parameters on {where}\n{run.path}")
    trainer.fit(run)
    if run.config.report and trainer.accelerator.is_main_process:
        from backdrift import report

        report.write(run)
    trainer.accelerator.end_training()
    say(f"done: {run.path}")
