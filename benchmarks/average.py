"""Whether another length of the weights' running average would serve better than the one of the recipe, on digits.

    python benchmarks/average.py                    # seeds 0 and 1, 1600 steps each: results/average.{md,jsonl}

Post-hoc EMA (Karras et al. 2024b, section 3) stores two power-function averages during a training and reconstructs one
of any length afterwards. Here averages of several lengths are followed in one training, which is what a reconstruction
could give at best. The best length is chosen by the held-out loss of one half of the test samples. Its bits/dim on the
other half, minus those of the recipe's average, say what post-hoc EMA would gain. A seed that is done is a line in the
jsonl file.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recipes import Training, in_words, made, written
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from backdrift.evaluation.scoring import score
from backdrift.models import Denoiser
from backdrift.models.times import stratified_uniform
from backdrift.runs.configuration import Job, build
from backdrift.runs.data_set import load_data
from backdrift.training import Recipe

RESULTS = Path(__file__).parent / "results"
FIXED = "ema 0.99"
"""The recipe's own average."""

DRAWS = 8
"""Times and noises for each sample in the held-out loss."""


def power(gamma: float) -> Callable[[int], float]:
    """The decay of the power-function average in step n, (1 - 1/n)^(gamma + 1) (Karras et al. 2024b, section 3.1)."""
    return lambda step: (1 - 1 / (step + 1)) ** (gamma + 1)


def exponential(decay: float) -> Callable[[int], float]:
    """The decay of the recipe: it is smaller at the start, see `Recipe.decay_of_average`."""
    return lambda step: min(decay, (1 + step) / (10 + step))


AVERAGES: dict[str, Callable[[int], float]] = {
    "ema 0.98": exponential(0.98),
    FIXED: exponential(0.99),
    "ema 0.995": exponential(0.995),
    "ema 0.9975": exponential(0.9975),
    "power 16.97": power(16.97),  # relative lengths of 5% and 10%
    "power 6.94": power(6.94),
}
"""The averages that are followed, with their decay in each step."""


def averaged(training: Training) -> dict[str, nn.Module]:
    """Train to the end; the network with each of the averages."""
    found = {name: copy.deepcopy(training.average) for name in AVERAGES}
    weights = {name: list(network.parameters()) for name, network in found.items()}
    for step in range(training.recipe.steps):
        training.step()
        for name, decay in AVERAGES.items():
            get_ema_multi_avg_fn(decay(step))(weights[name], training.weights, step)
    return found


@torch.no_grad()
def held_out_loss(training: Training, network: nn.Module, values: Tensor) -> float:
    """The mean loss over samples, times and noise, which are the same for every network."""
    model, generator = Denoiser(network, training.sde, training.data.std), torch.Generator().manual_seed(0)
    means = []
    for _ in range(DRAWS):
        x0 = training.data.units.to_model(values, generator)
        u = stratified_uniform(len(x0), generator)[torch.randperm(len(x0), generator=generator)]
        noise = torch.randn(x0.shape, generator=generator)
        means.append(training.recipe.loss(model, x0, u, noise).mean())
    return float(torch.stack(means).mean())


def bits_per_dim(training: Training, network: nn.Module, values: Tensor) -> Tensor:
    """Of each sample, with the same dequantisation and probes for every network."""
    model = Denoiser(network, training.sde, training.data.std)
    model.data_moments = training.data.card.moments
    return score(model, training.data.units, values, seed=0, method="rk4", steps=16).values


def result(seed: int, steps: int) -> dict[str, Any]:
    """One training, a line of the jsonl file."""
    config = Job("train", ("data=digits", f"train.seed={seed}", f"train.steps={steps}")).config()
    data, sde = load_data(config), build(config, "sde")
    config.event.std, config.event.shape = data.std, list(data.shape)
    config.event.condition = data.condition_sizes
    recipe: Recipe = build(config, "train")
    training = made(lambda channels: build(config, "model"), data, sde, recipe)
    networks = averaged(training)
    chosen_on, scored = data.test[::2], data.test[1::2]
    losses = {name: held_out_loss(training, network, chosen_on) for name, network in networks.items()}
    best = min(losses, key=lambda name: losses[name])
    values = {name: bits_per_dim(training, networks[name], scored).tolist() for name in {FIXED, best}}
    return {"seed": seed, "steps": steps, "losses": losses, "best": best, "bits_per_dim": values}


def report(rows: list[dict[str, Any]]) -> str:
    """Held-out losses of all averages, and what the best one gains."""
    lines = [
        "# The length of the weights' average",
        "",
        "`python benchmarks/average.py`, which says how it measures.",
        "",
    ]
    lines += [f"| seed | steps | {' | '.join(AVERAGES)} | bits/dim of {FIXED} | bits/dim of the best minus it |"]
    lines += ["| --- " * (len(AVERAGES) + 4) + "|"]
    for row in rows:
        own, best = (torch.tensor(row["bits_per_dim"][name]) for name in (FIXED, row["best"]))
        gain = "0 (it is the best)" if row["best"] == FIXED else f"{in_words(best - own)} ({row['best']})"
        losses = " | ".join(f"{row['losses'][name]:.4f}" for name in AVERAGES)
        lines.append(f"| {row['seed']} | {row['steps']} | {losses} | {in_words(own)} | {gain} |")
    lines += ["", "The columns in between are held-out losses. ± is a standard error over test samples."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1600, help="of the optimiser")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    file = RESULTS / "average.jsonl"
    for seed in options.seeds:
        if not any((row["seed"], row["steps"]) == (seed, options.steps) for row in written(file)):
            row = result(seed, options.steps)
            with file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps(row) + "\n")
    text = report(written(file))
    (RESULTS / "average.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
