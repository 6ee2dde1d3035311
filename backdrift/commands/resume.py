"""Go on with a training where it stopped."""

from __future__ import annotations

from omegaconf import DictConfig

from backdrift.runs.run import Run
from backdrift.training.completion import complete
from backdrift.training.trainer import Trainer


def main(config: DictConfig) -> None:
    """Train the run in `config.run` to its end; say so if it is there."""
    run = Run.open(config.run)
    step, steps = run.latest_checkpoint().step, run.config.train.steps
    if step >= steps and ((run.path / "report.md").exists() or not run.config.report):
        print(f"{run.path}: finished, all {steps} steps are done")
        return
    complete(Trainer(run.config), run)
