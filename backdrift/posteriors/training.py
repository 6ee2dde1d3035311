"""Training of one denoiser of residuals given observations, stopped by held-out simulations."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from backdrift.estimators.held_out import HeldOut
from backdrift.models import Denoiser, DenoisingLoss, EDMLikelihoodTimes, LogNormalTimes, MixedTimes
from backdrift.models.conditions import Vector

TIMES = MixedTimes(LogNormalTimes(-0.8, 1.2), EDMLikelihoodTimes(1.0))
"""Half of the noise levels weigh errors as the likelihood does, and half lie where posteriors take their shape."""

WEIGHT_DECAY = 1e-2
GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Budget:
    """How a member of the ensemble is trained.

    Args:
        steps: of the optimiser, at most.
        batch_size: simulations in a step.
        learning_rate: the highest. It falls to 0 along a cosine.
        ema: decay of the running average of the weights.
        patience: training stops after so many steps without gain on the held-out simulations.
        check_every: steps between two evaluations on them.
        noise: the least noise, in standard deviations of the residuals.
        verbose: whether to show progress.
    """

    steps: int
    batch_size: int
    learning_rate: float
    ema: float
    patience: int
    check_every: int
    noise: float
    verbose: bool


def train(
    model: Denoiser,
    r: Tensor,
    x: Tensor,
    held: tuple[Tensor, Tensor],
    budget: Budget,
    generator: torch.Generator,
) -> tuple[Denoiser, float, int]:
    """The running average of the weights that had the largest gain on the held-out simulations.

    Args:
        model: untrained, in training mode.
        r: residuals, `[n, d]`.
        x: observations in the units of the network, `[n, k]`.
        held: the same pair for held-out simulations.
        budget: see `Budget`.
        generator: of batches and noise.

    Returns:
        The denoiser; its gain over N(0, I) in nats a simulation, see `HeldOut`; and the number of steps taken. A
        network without any gain is left untrained, which makes the posterior the linear Gaussian one.
    """
    average = copy.deepcopy(model).eval().requires_grad_(False)
    best, gain, kept = copy.deepcopy(average.state_dict()), 0.0, 0
    checked = HeldOut(held[0], model.sde, budget.noise, generator)
    seen = Vector(held[1].repeat(len(checked.z) // len(held[1]), 1))
    loss = DenoisingLoss("edm", TIMES)
    optimizer = torch.optim.AdamW(
        model.parameters(), budget.learning_rate, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY
    )
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    move, now, mean = get_ema_multi_avg_fn(budget.ema), list(model.parameters()), list(average.parameters())
    step = 0
    for step in tqdm(range(1, budget.steps + 1), desc="training", disable=not budget.verbose):
        index = torch.randint(len(r), (budget.batch_size,), generator=generator)
        value = loss(model, r[index], condition=x[index], generator=generator).mean()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(now, GRADIENT_NORM)
        optimizer.step()
        fall.step()
        # The average forgets the first steps faster than `ema` would.
        (move if step * (1 - budget.ema) > 1 else get_ema_multi_avg_fn(1 - 1 / (step + 1)))(mean, now, step)
        if step % budget.check_every == 0 or step == budget.steps:
            found = checked.gain(average.given(seen))
            if found > gain:
                best, gain, kept = copy.deepcopy(average.state_dict()), found, step
            if step - kept >= budget.patience:
                break
    average.load_state_dict(best)
    return average, gain, step
