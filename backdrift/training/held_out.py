"""The loss of a trained model on samples that it has not seen: one number to compare runs by."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.models.accepted_condition import accepted_by
from backdrift.models.conditions import Label, standardised
from backdrift.models.times import stratified_uniform
from backdrift.runs.atomic import write_text
from backdrift.runs.configuration import build
from backdrift.runs.run import Run
from backdrift.runs.trained_model import TrainedModel
from backdrift.solvers.confidence import counted
from backdrift.solvers.model import place_of
from backdrift.training.recipe import Recipe

FILE = "held_out.json"

SAMPLES = 1024
"""The first so many samples of the test set are scored."""

DRAWS = 16
"""Times and noises for each sample, at most."""

EVALUATIONS = 4096
"""Evaluations of the network, at most: a few seconds for the networks of this package."""

BATCH = 256
"""Samples in memory at once. It changes no loss: a sample does not know its neighbours."""

SEED = 0
"""Of the noise, whatever the seed of the training: all runs are scored under the same noise."""


@dataclass(frozen=True)
class HeldOutLoss:
    r"""The mean of the training loss over the test set, times and noise, by the averaged (EMA) weights:

    .. math:: \frac{1}{n} \sum_{i=1}^n \frac{1}{m} \sum_{j=1}^m \ell(x_i, t_{ij}, \epsilon_{ij})

    The loss is that of the run's own config. Two runs can be compared by it if they have the same loss, the same
    distribution of times and the same test set; then the noise, which is fixed, takes part of the difference
    away that chance alone would make.

    Attributes:
        loss: the mean, in the units of the loss.
        standard_error: of the mean over the n samples; times and noise are part of it. nan for one sample.
        samples: n.
        draws: m, of time and noise for each sample.
        step: optimiser steps that the weights have behind them.
    """

    loss: float
    standard_error: float
    samples: int
    draws: int
    step: int

    def __str__(self) -> str:
        error = "" if math.isnan(self.standard_error) else f" ± {self.standard_error:.2g}"
        unknown = "" if error else "; one sample has no standard error"
        return (
            f"held-out loss {self.loss:.5g}{error} of the averaged weights "
            f"({counted(self.samples, 'test sample')}, {self.draws} draws of the noise each{unknown})"
        )


def measure(run: Run, device: torch.device | str = "cpu") -> HeldOutLoss:
    """Score the newest checkpoint of a run, and write the result into its folder as `held_out.json`.

    Raises:
        ValueError: if the loss is not finite.
    """
    model, recipe = run.model("ema", device), build(run.config, "train")
    result = loss_of(model, recipe, run.data(), run.latest_checkpoint().step)
    if not math.isfinite(result.loss):
        raise ValueError(f"run={run.path}: the held-out loss is {result.loss}; lower train.optimizer.lr or train.clip")
    write_text(run.path / FILE, json.dumps(asdict(result), indent=2) + "\n")
    return result


def loss_of(model: TrainedModel, recipe: Recipe, data: Data, step: int) -> HeldOutLoss:
    """The held-out loss of a model whose weights have `step` optimiser steps behind them."""
    losses = sample_losses(model, recipe, data)
    samples, draws = losses.shape
    error = float(losses.mean(1).std()) / math.sqrt(samples) if samples > 1 else math.nan
    return HeldOutLoss(float(losses.mean()), error, samples, draws, step)


def recorded(run: Run) -> HeldOutLoss | None:
    """What `measure` has written for the newest checkpoint; None if it has not, or for an older one."""
    try:
        result = HeldOutLoss(**json.loads((run.path / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return result if result.step == run.latest_checkpoint().step else None


@torch.no_grad()
def sample_losses(model: TrainedModel, recipe: Recipe, data: Data, seed: int = SEED) -> Tensor:
    """The loss of every test sample under every draw, `[samples, draws]`, float64.

    For each draw the times of the samples are one from each of n equal parts of (0, 1), in a random order: their
    mean has a smaller error than that of independent ones, and no sample is tied to a part.

    Args:
        model: the denoiser, on its device.
        recipe: says the loss.
        data: gives the test samples and their conditions.
        seed: of times, noise and dequantisation; they are drawn on the host, the same for every device.
    """
    values = data.test[:SAMPLES]
    n, state = len(values), model.sde.state_shape(data.shape)
    device, _ = place_of(model)
    conditions = _conditions(model, data, device)
    generator, columns = torch.Generator().manual_seed(seed), []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # for a loss that draws directions itself
        for _ in range(min(DRAWS, EVALUATIONS // n)):
            x0 = data.to_model(values, generator)
            u = stratified_uniform(n, generator)[torch.randperm(n, generator=generator, device="cpu")]
            noise = torch.randn(n, *state, generator=generator, device="cpu")
            parts = [
                recipe.loss(
                    model,
                    x0[part].to(device),
                    u[part].to(device),
                    noise[part].to(device),
                    None if conditions is None else conditions[part],
                )
                for part in (slice(first, first + BATCH) for first in range(0, n, BATCH))
            ]
            columns.append(torch.cat(parts).double().cpu())
    return torch.stack(columns, dim=1)


def _conditions(model: TrainedModel, data: Data, device: torch.device) -> Tensor | None:
    """The conditions of the scored samples in the units of the network, or None for an unconditional one."""
    accepted = accepted_by(model.network)
    if accepted is None or accepted.kind is None or data.test_condition is None:
        return None
    value = data.test_condition[:SAMPLES]
    if accepted.kind is Label:
        return value.to(device)
    moments = None if data.conditions is None else data.conditions.card.moments
    return standardised(value, moments).float().to(device)
