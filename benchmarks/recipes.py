"""Bits per dimension of our network after a training, beside other libraries' networks at equal processor time.

    pip install -e ".[benchmarks]"
    python benchmarks/recipes.py                    # mnist5k, 3000 steps of ours: results/recipes.{md,jsonl}
    python benchmarks/recipes.py --steps 400 --samples 32 --solver-steps 12    # a short version of it

Three networks have the same number of parameters to within 5%: our `UNet` as `data=mnist5k` has it, diffusers'
`UNet2DModel` and azula's `UNet`. All of them are trained with our loss, preconditioning, optimiser and running average
on the same batches, so that only the network differs. The time of a step is measured in turns before the trainings, in
processor time, and each network takes as many steps as fit into the time of ours. The learning rate and the running
average follow the number of steps.

Scored are the first test samples, with the same dequantisation and probes for all networks, so that the error of a
difference is smaller than that of a value. A network that is done is a line in the jsonl file. The same command goes on
with those that are missing.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from backdrift.data import Data
from backdrift.evaluation.scoring import score
from backdrift.models import Denoiser, UNet
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.runs.configuration import Job, build
from backdrift.runs.data_set import load_data
from backdrift.sde import GaussianSDE
from backdrift.training import Recipe
from backdrift.training.batches import Batches
from backdrift.training.shuffle import mixed

RESULTS = Path(__file__).parent / "results"
STEPS_A_WINDOW = 15
"""The running average reaches back over this part of the training: 1/15, as ema=0.995 does in 3000 steps."""
WARMUP = 0.05
"""The share of the steps in which the learning rate rises."""


LIMITS = """What the numbers do not say: the recipe, with its learning rate, was chosen for our network, and nothing was
chosen for the others. Our network sees sinusoids of the image, which resolve its levels. The others see the image
alone, as their libraries have it. A short training favours a network that begins near a good denoiser.
"""


class Diffusers(nn.Module):
    """diffusers' `UNet2DModel` at three levels, with attention at the coarsest one, as its defaults have it.

    Its sinusoidal embedding is made for times from 0 to 1000, into which c_noise is mapped.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.network = UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(24, 48, 72),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
        )

    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        return self.network(z, 250 * (c_noise + 2)).sample


class Azula(nn.Module):
    """azula's `UNet` at three levels, modulated by an embedding of c_noise."""

    def __init__(self, channels: int, features: int = 128) -> None:
        super().__init__()
        from azula.nn.layers import SineEncoding
        from azula.nn.unet import UNet as Network

        self.embedding = nn.Sequential(
            SineEncoding(features), nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features)
        )
        self.network = Network(
            channels,
            channels,
            hid_channels=(32, 64, 96),
            hid_blocks=(1, 1, 1),
            mod_features=features,
            norm="group",
            groups=8,
        )

    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        return self.network(z, self.embedding(250 * (c_noise + 2)))


def ours(channels: int) -> nn.Module:
    """The network of `data=mnist5k`."""
    return UNet(channels, widths=(32, 64, 128), blocks=1, fourier=(1, 3, 5, 6, 7))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"ours": ours, "diffusers": Diffusers, "azula": Azula}


class Training:
    """A network in training, with the running average of its weights.

    Args:
        network: what is trained, made with the seed of the recipe.
        data: where the samples come from.
        sde: the process.
        recipe: how it is trained.
    """

    def __init__(self, network: nn.Module, data: Data, sde: GaussianSDE, recipe: Recipe) -> None:
        self.network, self.data, self.sde, self.recipe = network.train(), data, sde, recipe
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.weights, self.averages = list(network.parameters()), list(self.average.parameters())
        self.optimizer = recipe.optimizer(self.weights)
        self.highest = self.optimizer.param_groups[0]["lr"]
        self.batches = Batches(data, data.units, data.shape, AcceptedCondition(), recipe, torch.device("cpu"))
        self.model = Denoiser(network, sde, data.std)
        self.done = 0

    def step(self) -> float:
        """One step of the optimiser; the loss before it."""
        x0, u, noise, _, _ = self.batches.draw(self.done)
        self.optimizer.param_groups[0]["lr"] = self.highest * self.recipe.rate(self.done)
        loss = self.recipe.loss(self.model, x0, u, noise).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.clip or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()
        get_ema_multi_avg_fn(self.recipe.decay_of_average(self.done))(self.averages, self.weights, self.done)
        self.done += 1
        return float(loss.detach())

    def bits_per_dim(self, samples: int, steps: int) -> Tensor:
        """Of the first test samples by the averaged weights, `[samples]`."""
        model = Denoiser(self.average, self.sde, self.data.std)
        model.data_moments = self.data.card.moments
        return score(model, self.data.units, self.data.test[:samples], seed=0, method="rk4", steps=steps).values


def of_length(recipe: Recipe, steps: int, seed: int) -> Recipe:
    """The same recipe over another number of steps."""
    ema = max(0.0, 1 - STEPS_A_WINDOW / steps)
    return replace(recipe, steps=steps, warmup=round(WARMUP * steps), ema=ema, seed=seed)


def made(network: Callable[[int], nn.Module], data: Data, sde: GaussianSDE, recipe: Recipe) -> Training:
    """The training of a network that is made for so many channels, with weights from the seed of the recipe."""
    torch.manual_seed(mixed(recipe.seed, 0))
    return Training(network(data.shape[0]), data, sde, recipe)


def seconds_a_step(data: Data, sde: GaussianSDE, recipe: Recipe, rounds: int = 12) -> dict[str, float]:
    """The median processor time of a step of each network. They take turns, so that all see the same machine."""
    trainings = {name: made(network, data, sde, recipe) for name, network in NETWORKS.items()}
    times: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for _ in range(rounds + 2):
        for name, training in trainings.items():
            begun = time.process_time()
            training.step()
            times[name].append(time.process_time() - begun)
    return {name: statistics.median(each[2:]) for name, each in times.items()}


def trained(name: str, data: Data, sde: GaussianSDE, recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """The result of one network, a line of the jsonl file."""
    training = made(NETWORKS[name], data, sde, recipe)
    begun = time.process_time()
    losses = [training.step() for _ in range(recipe.steps)]
    took = time.process_time() - begun
    values = training.bits_per_dim(options.samples, options.solver_steps)
    return {
        "network": name,
        "data": options.data,
        "budget": options.steps,
        "seed": options.seed,
        "parameters": sum(value.numel() for value in training.weights),
        "steps": recipe.steps,
        "processor_seconds": round(took, 1),
        "loss": statistics.mean(losses[-max(1, recipe.steps // 10) :]),
        "bits_per_dim": values.tolist(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each network of a comparison, ours first."""
    lines = [
        "| network | parameters | steps | processor s | bits/dim | minus ours |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    own = torch.tensor(next(row for row in rows if row["network"] == "ours")["bits_per_dim"])
    for row in rows:
        values = torch.tensor(row["bits_per_dim"])
        apart = values - own
        difference = "" if row["network"] == "ours" else in_words(apart)
        lines.append(
            f"| {row['network']} | {row['parameters']} | {row['steps']} | {row['processor_seconds']:.0f} | "
            f"{in_words(values)} | {difference} |"
        )
    return "\n".join(lines) + "\n"


def in_words(values: Tensor) -> str:
    return f"{values.mean():.4f} ± {values.std() / len(values) ** 0.5:.4f}"


def written(file: Path) -> list[dict[str, Any]]:
    """The results that are there already."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def report(rows: list[dict[str, Any]]) -> str:
    """All complete comparisons, the longest first."""
    text = "# Networks at equal processor time\n\n`python benchmarks/recipes.py`, which says how it measures. "
    text += (
        "± is a standard error over test samples, that of a difference over differences sample by sample.\n\n" + LIMITS
    )
    keys = sorted(
        {(row["data"], row["budget"], row["seed"]) for row in rows}, key=lambda key: (key[0], -key[1], key[2])
    )
    for data, budget, seed in keys:
        chosen = [row for row in rows if (row["data"], row["budget"], row["seed"]) == (data, budget, seed)]
        if {row["network"] for row in chosen} == set(NETWORKS):
            chosen.sort(key=lambda row: list(NETWORKS).index(row["network"]))
            samples = len(chosen[0]["bits_per_dim"])
            title = f"{data}, the time of {budget} steps of ours, seed {seed}, {samples} test samples"
            text += f"\n## {title}\n\n{table(chosen)}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist5k", choices=["mnist5k", "digits"])
    parser.add_argument("--steps", type=int, default=3000, help="of our network, whose time all networks have")
    parser.add_argument("--samples", type=int, default=64, help="test samples that are scored")
    parser.add_argument("--solver-steps", type=int, default=16, help="of the likelihood")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and noise")
    options = parser.parse_args()
    config = Job("train", (f"data={options.data}", "train=mnist5k")).config()
    data, sde = load_data(config), build(config, "sde")
    config.event.std = data.std
    recipe: Recipe = build(config, "train")
    file = RESULTS / "recipes.jsonl"
    key = {"data": options.data, "budget": options.steps, "seed": options.seed}
    there = {row["network"]: row for row in written(file) if key.items() <= row.items()}
    if there.keys() != NETWORKS.keys():
        times = seconds_a_step(data, sde, of_length(recipe, options.steps, options.seed))
        print({name: f"{1e3 * value:.1f} ms a step" for name, value in times.items()}, flush=True)
        for name in NETWORKS:
            if name not in there:
                steps = round(options.steps * times["ours"] / times[name])
                row = trained(name, data, sde, of_length(recipe, steps, options.seed), options)
                with file.open("a", encoding="utf-8") as opened:
                    opened.write(json.dumps(row) + "\n")
                print(name, in_words(torch.tensor(row["bits_per_dim"])), "bits/dim", flush=True)
    text = report(written(file))
    (RESULTS / "recipes.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
