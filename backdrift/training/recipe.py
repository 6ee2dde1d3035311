"""How a network is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Count, NonNegativeCount, Positive, Range, Seed, Share
from backdrift.training.parallel import Parallel

Decay = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        loss: gives one number for each sample of a batch; called as `loss(model, x0, u, noise, condition)`, as
            `models.DenoisingLoss` is.
        optimizer: makes the optimiser of the parameters, with the highest learning rate.
        steps: number of optimiser steps.
        batch: samples that go through the network at once, over all processes together.
        accumulate: batches in a step, whose gradients are summed up one after the other. `batch=64, accumulate=4` takes
            the steps of `batch=256`, with the same samples, times and noise, in a quarter of the memory.
        warmup: steps in which the learning rate rises to its highest.
        decay: how the learning rate changes until the end: it falls to 0 along a "cosine" or on a "linear" line, or it
            is "constant".
        clip: the largest norm of the gradient, or null for no limit.
        ema: decay of the weights' running average in a step. It is smaller at the start, see `decay_of_average`.
        parallel: how several processes share the training: "ddp" or "auto" for all weights in each of them, "fsdp" for
            a part of the weights in each, see `parallel.Sharded`. One process holds all weights in any case.
        mixed_precision: "no" for float32, "bf16" or "fp16" inside the network; null leaves it to accelerate's own
            settings. "auto" tries float32 and bf16 before the first step, see `precision.PrecisionTrial`, and
            writes its choice into the run's config, so that a resumed training keeps it.
        label_dropout: the share of conditions withheld, labels, vectors or pictures, for classifier-free guidance. A
            network sees then what the density without the condition is.
        partial_dropout: the share of vectors of which some numbers are withheld, each with probability 1/2, so that
            conditions that are known in part can be given.
        channels_last: whether images and kernels lie in memory with the channels innermost; with "fsdp" images alone.
        compile: whether `torch.compile` makes machine code of the network and of its gradient. That takes from half a
            minute to some minutes before the first step. Where it cannot, a line says so and training goes on without.
            The weights in checkpoints are the same. Values differ by rounding.
        seed: of the weights, the order of the data and all noise.
        log_every: steps between two lines of `metrics.jsonl`.
        held_out_every: steps between two measurements of the held-out loss of the averaged weights, which go into
            `metrics.jsonl`; null for none before the end. The noise is the same in all of them.
        checkpoint_every: steps between two checkpoints.
        keep: how many checkpoints are kept.

    Raises:
        ValueError: if an argument is out of its range. The message names it.
    """

    loss: Callable[..., Tensor]
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    steps: Count
    batch: Annotated[int, Range(least=1, most=10_000_000)]
    accumulate: Annotated[int, Range(least=1, most=10_000)] = 1
    warmup: NonNegativeCount = 0
    decay: Decay = "cosine"
    clip: Positive | None = 1.0
    ema: Share = 0.999
    parallel: Parallel = "auto"
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] | None = None
    label_dropout: Share = 0.1
    partial_dropout: Share = 0.1
    channels_last: bool = False
    compile: bool = False
    seed: Seed = 0
    log_every: Count = 50
    held_out_every: Count | None = None
    checkpoint_every: Count = 500
    keep: Count = 2

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def samples(self) -> int:
        """Samples in a step, over all processes and all batches of it."""
        return self.batch * self.accumulate

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
