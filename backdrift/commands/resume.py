"""Go on with a training, or with a sweep, where it stopped."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from backdrift.runs import config_file
from backdrift.runs.device import AUTO, device_named
from backdrift.runs.interruption import advising
from backdrift.runs.run import Run
from backdrift.training import held_out
from backdrift.training.completion import complete
from backdrift.training.trainer import Trainer


def main(config: DictConfig) -> float | None:
    """Train the run in `config.run` to its end, and say so if it is there already. Returns the held-out loss.

    The folder of a sweep does not come here: its jobs are started by `backdrift.runs.sweeps`.
    """
    device = config.get("device", AUTO)
    place = device_named(device)
    run = Run.open(config.run, config.trust, OmegaConf.select(config, "data.changed", default="refuse"))
    step = run.whole_checkpoint().step
    _change_steps(run, step, OmegaConf.select(config, "train.steps"))
    steps = run.config.train.steps
    if step >= steps and ((run.path / "report.md").exists() or not run.config.report):
        print(f"{run.path}: finished, all {steps} steps are done")
        return (held_out.recorded(run) or held_out.measure(run, place)).loss
    with advising(f"interrupted; backdrift resume run={run.path} goes on from the last checkpoint"):
        return complete(Trainer(run.config, run.data(), device), run)


def _change_steps(run: Run, step: int, steps: int | None) -> None:
    """Train to another number of steps than the run was begun with; `config.yaml` says so from then on.

    The learning rate follows its course over all steps, the new ones among them, from the step that is reached.

    Raises:
        ValueError: if it is no number of steps, or fewer than are done.
    """
    if steps is None or steps == run.config.train.steps:
        return
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < step:
        raise ValueError(f"train.steps={steps}: expected at least the {step} steps that are done, or null")
    run.config.train.steps = steps
    config_file.write(run.path, run.config)
