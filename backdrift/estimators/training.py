"""Training of a denoiser of whitened rows, which held-out rows stop."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from backdrift.estimators.held_out import HeldOut
from backdrift.models import Denoiser, DenoisingLoss, TimeDistribution

CHECK_EVERY = 50
"""Steps between two evaluations on the held-out rows."""

GRADIENT_NORM = 1.0
"""The largest norm of a gradient. Longer ones are shortened to it."""


@dataclass(frozen=True)
class Budget:
    """How a denoiser is trained.

    Args:
        steps: of the optimiser, at most.
        batch_size: rows in a step.
        learning_rate: the highest. It falls to 0 along a cosine.
        weight_decay: of AdamW.
        ema: decay of the running average of the weights.
        patience: training stops after so many steps without gain on the held-out rows.
        noise: the least noise, in standard deviations of the rows, see `HeldOut`.
        verbose: whether to show progress.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    ema: float
    patience: int
    noise: float
    verbose: bool


def train(
    model: Denoiser,
    rows: tuple[Tensor, Tensor | None],
    held: tuple[Tensor, Tensor | None],
    times: TimeDistribution,
    budget: Budget,
    generator: torch.Generator,
) -> tuple[Denoiser, float, int]:
    """The running average of the weights that had the largest gain on the held-out rows.

    Args:
        model: untrained, in training mode.
        rows: z, `[n, d]`, and what the denoiser is given for each in the units of the network, `[n, k]`, or None.
        held: the same pair for held-out rows.
        times: of the noise levels in training.
        budget: see `Budget`.
        generator: of batches and noise.

    Returns:
        The denoiser; its gain over N(0, I) in nats a row, see `HeldOut`; and the number of steps taken. A network
        that gains nothing over its untrained self is left untrained, which makes the density the closed form that the
        training started from.
    """
    z, condition = rows
    average = copy.deepcopy(model).eval().requires_grad_(False)
    held_out = HeldOut(held[0], model.sde, budget.noise, generator, held[1])
    best, gain, kept = copy.deepcopy(average.state_dict()), held_out.gain(average), 0
    loss = DenoisingLoss("edm", times)
    optimizer = torch.optim.AdamW(
        model.parameters(), budget.learning_rate, betas=(0.9, 0.99), weight_decay=budget.weight_decay
    )
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    move, now, mean = get_ema_multi_avg_fn(budget.ema), list(model.parameters()), list(average.parameters())
    step = 0
    for step in tqdm(range(1, budget.steps + 1), desc="training", disable=not budget.verbose):
        index = torch.randint(len(z), (budget.batch_size,), generator=generator, device="cpu")
        given = None if condition is None else condition[index]
        value = loss(model, z[index], condition=given, generator=generator).mean()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(now, GRADIENT_NORM)
        optimizer.step()
        fall.step()
        # The average forgets the first steps faster than `ema` would.
        (move if step * (1 - budget.ema) > 1 else get_ema_multi_avg_fn(1 - 1 / (step + 1)))(mean, now, step)
        if step % CHECK_EVERY == 0 or step == budget.steps:
            found = held_out.gain(average)
            if found > gain:
                best, gain, kept = copy.deepcopy(average.state_dict()), found, step
            if step - kept >= budget.patience:
                break
    average.load_state_dict(best)
    return average, gain, step
