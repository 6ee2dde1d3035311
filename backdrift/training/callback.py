"""What a caller may do while a network is trained: log, draw samples, end the training early."""

from __future__ import annotations

from typing import Protocol

from backdrift.runs.trained_model import TrainedModel


class Callback(Protocol):
    """Called after every line of `metrics.jsonl`, so each `train.log_every` steps, in every process.

    Random numbers that it draws change no later step, since those of a step are a function of the seed and its number.
    """

    def __call__(self, step: int, loss: float, model: TrainedModel, /) -> bool | None:
        """Look at the training.

        Args:
            step: optimiser steps done.
            loss: the mean training loss since the last line, over all processes.
            model: with the averaged (EMA) weights of this step, in evaluation mode. The next step changes it.

        Returns:
            True to end the training after this step, which is kept; False or None to go on. One process that returns
            True is enough.
        """
