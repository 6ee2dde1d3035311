"""What a training writes down on its way: losses in `metrics.jsonl`, a progress bar, the curves of a logger."""

from __future__ import annotations

import math
import time
from types import TracebackType

from backdrift.data import Data
from backdrift.runs.progress import Progress
from backdrift.runs.run import Run
from backdrift.solvers.model import ModelLike
from backdrift.training.held_out import HeldOutLoss
from backdrift.training.loggers import Logger, picture_of


class Journal:
    """Writes losses into the run folder and shows them. It is a context manager.

    Args:
        run: the run folder.
        start: optimiser steps done already. Lines of later steps, which were lost, are removed.
        steps: optimiser steps in all.
        writes: whether this process writes and shows anything; only the first one does.
        evaluates: whether this process has to call the network whenever the first one does, since each holds a part.
    """

    def __init__(self, run: Run, start: int, steps: int, writes: bool, evaluates: bool = False) -> None:
        self.run, self.writes = run, writes
        self.before = 0.0  # seconds of training before the checkpoint
        if writes:
            run.forget_after(start)
            self.before = max((row.get("seconds", 0.0) for row in run.read_metrics()), default=0.0)
        self.progress = Progress("train", steps, "step", start, writes)
        name = run.config.get("logger", "none")
        self.logger = Logger(name, run.path, start) if writes and name != "none" else None
        self.draws = name != "none" and (writes or evaluates)
        self.begun = time.monotonic()

    def write(
        self, step: int, loss: float, rate: float, held_out: HeldOutLoss | None = None, gradient: float | None = None
    ) -> None:
        """Write a line.

        Args:
            step: optimiser steps done.
            loss: the mean of the training losses since the last line.
            rate: the learning rate.
            held_out: the held-out loss of the averaged weights, if it was measured at this step.
            gradient: the norm of the last gradient before it is cut, if it is known.
        """
        measured = {} if held_out is None else {"held_out": held_out.loss, "held_out_error": held_out.standard_error}
        if gradient is not None and math.isfinite(gradient):  # half precision skips steps whose gradient is not
            measured["gradient_norm"] = gradient
        if self.writes:
            seconds = self.before + time.monotonic() - self.begun
            self.run.log(step, loss=loss, lr=rate, seconds=round(seconds, 3), **measured)
            if self.logger is not None:
                self.logger.numbers(step, {"loss": loss, "lr": rate, **measured})
        said = "" if held_out is None else f"  held-out {held_out.loss:.4g}"
        self.progress(step, f"loss {loss:.4g}{said}")

    def draw(self, step: int, model: ModelLike, data: Data) -> None:
        """Give the logger, if there is one, a picture of samples of the averaged weights beside real ones."""
        if not self.draws:
            return
        picture = picture_of(model, data)
        if self.logger is not None:
            self.logger.picture(step, "samples", picture)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        if self.logger is not None:
            self.logger.close()
