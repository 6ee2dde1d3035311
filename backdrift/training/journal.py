"""What a training writes down on its way: losses in `metrics.jsonl`, a progress bar, TensorBoard."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from backdrift.runs.progress import Progress
from backdrift.runs.run import Run
from backdrift.training.held_out import HeldOutLoss


class Journal:
    """Writes losses into the run folder and shows them. It is a context manager.

    Args:
        run: the run folder.
        start: optimiser steps done already. Lines of later steps, which were lost, are removed.
        steps: optimiser steps in all.
        writes: whether this process writes and shows anything; only the first one does.
    """

    def __init__(self, run: Run, start: int, steps: int, writes: bool) -> None:
        self.run, self.writes = run, writes
        self.before = 0.0  # seconds of training before the checkpoint
        if writes:
            run.forget_after(start)
            self.before = max((row.get("seconds", 0.0) for row in run.read_metrics()), default=0.0)
        self.progress = Progress("train", steps, "step", start, writes)
        self.board = tensorboard_writer(run, start) if writes else None
        self.begun = time.monotonic()

    def write(self, step: int, loss: float, rate: float, held_out: HeldOutLoss | None = None) -> None:
        """Write a line.

        Args:
            step: optimiser steps done.
            loss: the mean of the training losses since the last line.
            rate: the learning rate.
            held_out: the held-out loss of the averaged weights, if it was measured at this step.
        """
        measured = {} if held_out is None else {"held_out": held_out.loss, "held_out_error": held_out.standard_error}
        if self.writes:
            seconds = self.before + time.monotonic() - self.begun
            self.run.log(step, loss=loss, lr=rate, seconds=round(seconds, 3), **measured)
            if self.board is not None:
                self.board.add_scalar("loss", loss, step)
                for name, value in measured.items():
                    self.board.add_scalar(name, value, step)
        said = "" if held_out is None else f"  held-out {held_out.loss:.4g}"
        self.progress(step, f"loss {loss:.4g}{said}")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        if self.board is not None:
            self.board.close()


def tensorboard_writer(run: Run, start: int) -> Any:
    """A writer of TensorBoard's files in the run folder, or None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import
    except ImportError:
        return None
    return SummaryWriter(str(run.path / "tensorboard"), purge_step=start or None)
