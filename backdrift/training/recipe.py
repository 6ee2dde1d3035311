"""How a network is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.optim import Optimizer

Decay = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        loss: gives one number for each sample of a batch; called as `loss(model, x0, u, noise, label)`, as
            `models.DenoisingLoss` is.
        optimizer: makes the optimiser of the parameters, with the highest learning rate.
        steps: number of optimiser steps.
        batch: samples in a step, over all processes together.
        warmup: steps in which the learning rate rises to its highest.
        decay: how the learning rate changes until the end: it falls to 0 along a "cosine" or on a "linear" line, or it
            is "constant".
        clip: the largest norm of the gradient, or null for no limit.
        ema: decay of the weights' running average in a step. It is smaller at the start, see `decay_of_average`.
        mixed_precision: "no", "bf16" or "fp16" inside the network; null leaves it to accelerate's own settings.
        label_dropout: the share of labels withheld, for classifier-free guidance (networks with classes).
        channels_last: whether images and kernels lie in memory with the channels innermost.
        seed: of the weights, the order of the data and all noise.
        log_every: steps between two lines of `metrics.jsonl`.
        checkpoint_every: steps between two checkpoints.
        keep: how many checkpoints are kept.

    Raises:
        ValueError: if an argument is out of its range. The message names it.
    """

    loss: Callable[..., Tensor]
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    steps: int
    batch: int
    warmup: int = 0
    decay: Decay = "cosine"
    clip: float | None = 1.0
    ema: float = 0.999
    mixed_precision: str | None = None
    label_dropout: float = 0.1
    channels_last: bool = False
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for name, made in (("loss", self.loss), ("optimizer", self.optimizer)):
            if made is not None and not callable(made):
                raise ValueError(f"{name}={made}: expected keys with a _target_")
        for name in ("steps", "batch", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        for name in ("warmup", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        for name in ("ema", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number in [0, 1)")
        if self.decay not in get_args(Decay):
            raise ValueError(f"decay={self.decay}: expected one of {', '.join(get_args(Decay))}")
        if self.mixed_precision not in (None, "no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision={self.mixed_precision}: expected no, bf16, fp16 or null")
        if self.clip is not None and not (isinstance(self.clip, (int, float)) and self.clip > 0):
            raise ValueError(f"clip={self.clip}: expected a positive number or null")

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, … as a share of the highest."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        share = step / self.steps
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}
        return warm * fall[self.decay]

    def decay_of_average(self, step: int) -> float:
        """The decay of the running average in step n = 0, 1, …: min(ema, (1 + n)/(10 + n)).

        The smaller decay at the start makes the average of a short training forget its first weights.
        """
        return min(self.ema, (1 + step) / (10 + step))
