"""Critically damped Langevin diffusion beside VP: the same network, the same training, the same NFE budgets.

    python benchmarks/critically_damped.py [moons|digits] [--steps 4000] [--seeds 2]

Both are trained on the same batches by the same optimiser, each by its own loss: EDM's for VP (Karras et al.
2022), hybrid score matching for CLD (Dockhorn et al. 2022). Samples are compared with the test set by
the energy distance, its standard error beside it; the training set's own distance is the floor.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backdrift.data import Data, Digits, Moons
from backdrift.metrics import energy_distance
from models import MLP, Denoiser, DenoisingLoss, HybridLoss, HybridScore
from sde import VP, CriticallyDamped
from solvers import DDIM, Heun, SymmetricSplitting, sample

BUDGETS = (20, 50, 200)


def train(model: Any, loss: Any, data: Data, steps: int, batch: int, seed: int) -> Any:
    """The model with averaged weights, after `steps` of Adam with a cosine decay."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average = copy.deepcopy(model)
    for step in range(steps):
        rows = torch.randint(len(data.train), (batch,), generator=generator)
        value = loss(model, data.to_model(data.train[rows], generator).flatten(1), generator=generator).mean()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, max(2e-3, 1 / (step + 1)))
    return average


def samplers(n: int, dim: int) -> dict[str, tuple[str, Callable[[Any, int, int], Tensor]]]:
    """By name: the process, and how n samples are drawn from its model with an NFE budget and a seed."""

    def vp(solver: Callable[[int], Any]) -> Callable[[Any, int, int], Tensor]:
        return lambda model, nfe, seed: sample(model, solver(nfe), (n, dim), seed)

    def cld(inner: Any, cost: int) -> Callable[[Any, int, int], Tensor]:
        def draw(model: Any, nfe: int, seed: int) -> Tensor:
            solver = SymmetricSplitting(steps=nfe // cost, inner=inner, grid="quadratic")
            return model.sde.position(sample(model, solver, (n, 2, dim), seed))

        return draw

    return {
        "VP, Heun": ("vp", vp(lambda nfe: Heun(steps=nfe // 2))),
        "VP, DDPM (DDIM, eta = 1)": ("vp", vp(lambda nfe: DDIM(steps=nfe, eta=1.0))),
        "CLD, splitting (Euler)": ("cld", cld("euler", 1)),
        "CLD, splitting (midpoint)": ("cld", cld("midpoint", 2)),
    }


def study(name: str, steps: int, seeds: int) -> None:
    data: Data = Moons() if name == "moons" else Digits()
    hidden, depth, batch = (128, 3, 512) if name == "moons" else (256, 4, 128)
    test = data.to_model(data.test, torch.Generator().manual_seed(0)).flatten(1)
    n, dim = max(1000, len(test)), test.shape[1]
    floor = energy_distance(data.to_model(data.train[:n], torch.Generator().manual_seed(1)).flatten(1), test)
    print(f"{data}; {steps} steps of {batch}, MLP({hidden}, {depth}); training set to test set {floor}")
    print(f"{'seed':<5}{'':<28}" + "".join(f"{f'{budget} NFE':>22}" for budget in BUDGETS))
    for seed in range(seeds):
        models: dict[str, Any] = {}
        for process in ("vp", "cld"):
            torch.manual_seed(seed)
            began = time.perf_counter()
            if process == "vp":
                models["vp"] = Denoiser(MLP(dim, hidden, depth), VP(), data.std)
                models["vp"] = train(models["vp"], DenoisingLoss(), data, steps, batch, seed)
            else:
                models["cld"] = HybridScore(MLP(2 * dim, hidden, depth), CriticallyDamped(), data.std)
                models["cld"] = train(models["cld"], HybridLoss(), data, steps, batch, seed)
            size = sum(p.numel() for p in models[process].parameters())
            print(f"{seed:<5}{process}: {size} weights, trained in {time.perf_counter() - began:.0f} s", flush=True)
        for label, (process, draw) in samplers(n, dim).items():
            found = [energy_distance(draw(models[process], budget, seed), test) for budget in BUDGETS]
            print(f"{seed:<5}{label:<28}" + "".join(f"{e!s:>22}" for e in found), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["moons", "digits"], choices=["moons", "digits"])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    for chosen in arguments.data:
        study(chosen, arguments.steps, arguments.seeds)
