"""Training from Python: what `backdrift train` and `backdrift resume` do, with a callback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backdrift.runs.configuration import Job
from backdrift.runs.device import AUTO
from backdrift.runs.run import Run
from backdrift.training.callback import Callback
from backdrift.training.completion import complete, train_new
from backdrift.training.trainer import Trainer


def train(*overrides: str, callback: Callback | None = None) -> Path:
    """Train into a new run folder, as `backdrift train` does.

    Args:
        overrides: as on the command line, such as "data=moons" and "train.steps=2000".
        callback: called as `callback(step, loss, model)` every `train.log_every` steps, with the mean training loss
            since the last call and the model of the averaged weights. It ends the training by returning True. Then
            `train.steps` in the run's config is the number of steps that are done, and `log.txt` says so.

    Returns:
        The run folder, for `backdrift.load`.

    Raises:
        ValueError: if an override is wrong, or the parts do not fit each other.
        FloatingPointError: if the loss or a weight becomes NaN or infinite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with what is kept and how to go on.

    Example:
        >>> history = []
        >>> def worse(step, loss, model):  # ends when the mean loss of a line is above that of three lines before
        ...     history.append(loss)
        ...     return len(history) > 3 and loss > history[-4]
        >>> folder = backdrift.train("data=moons", "model=mlp", callback=worse)  # doctest: +SKIP
    """
    run, _ = train_new(Trainer(Job("train", overrides).config(), callback=callback))
    return run.path


def resume(run: str | Path, *, callback: Callback | None = None, device: str = AUTO, trust: Sequence[str] = ()) -> Path:
    """Go on with a training from its newest checkpoint to its end, as `backdrift resume` does.

    Args:
        run: the folder, or "latest" for the newest one in `runs`.
        callback: as for `train`. It starts afresh: what an earlier one remembered is not kept.
        device: "auto" for the accelerator that is there, else the CPU; or a device by its name.
        trust: packages of your own whose classes the folder may name.

    Returns:
        The run folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not a run folder, is damaged, or its data set has changed.
        FloatingPointError: if the loss or a weight becomes NaN or infinite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with what is kept and how to go on.
    """
    opened = Run.open(run, trust)
    complete(Trainer(opened.config, opened.data(), device, callback), opened)
    return opened.path
