"""Go on with a training, or with a sweep, where it stopped."""

from __future__ import annotations

from omegaconf import DictConfig

from backdrift.runs.run import Run
from backdrift.training import held_out
from backdrift.training.completion import complete
from backdrift.training.trainer import Trainer


def main(config: DictConfig) -> float | None:
    """Train the run in `config.run` to its end, and say so if it is there already; the held-out loss.

    The folder of a sweep does not come here: its jobs are started by `backdrift.runs.sweeps`.
    """
    run = Run.open(config.run, config.trust)
    step, steps = run.latest_checkpoint().step, run.config.train.steps
    if step >= steps and ((run.path / "report.md").exists() or not run.config.report):
        print(f"{run.path}: finished, all {steps} steps are done")
        return (held_out.recorded(run) or held_out.measure(run)).loss
    return complete(Trainer(run.config), run)
