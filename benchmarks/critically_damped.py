"""Critically damped Langevin diffusion beside VP: the same network, the same training, the same NFE budgets.

    python benchmarks/critically_damped.py [moons|digits] [--steps 1000] [--seeds 3]

All are trained on the same batches by the same optimiser, each by its own loss: EDM's for VP (Karras et al.
2022), hybrid score matching for CLD (Dockhorn, Vahdat & Kreis 2022), whose times are uniform; VP with uniform
times stands beside them, to tell what the times do. Samples are compared with the test set by the energy
distance; the training set's own distance is the floor. Writes results/critically_damped_<data>.md.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backdrift.data import Data, Digits, Moons
from backdrift.evaluation.metrics import energy_distance
from backdrift.models import MLP, Denoiser, DenoisingLoss, HybridLoss, HybridScore, UniformTimes
from backdrift.sde import VP, CriticallyDamped
from backdrift.solvers import DDIM, Adams, Heun, SymmetricSplitting, sample

BUDGETS = (20, 50, 100)

READING = """\
CLD is not as good as VP at equal training. The gap does not close with evaluations (the midpoint splitting is the
same at 50 and 100), so what is left is the network's error, not the solver's; nor is it the times, as VP trained at
uniform times, as CLD is, does as well as VP from 50 evaluations on. It narrows with training: at 2000 steps (seed 0
alone) the best CLD of 50 evaluations had 0.0071 ± 0.0065 on digits where VP had 0.0000 ± 0.0066, and 0.0010 ± 0.0016
on moons beside VP's -0.0001 ± 0.0013. So CLD's network, which has to find one noise in two noisy inputs, seems to
learn more slowly. Each distance has a standard error of its own over the finite samples, about 0.006 on digits and
0.002 on moons, that seeds share in part. CLD's sampler is the better of the two stochastic ones at 20 evaluations:
DDPM's is behind it there.
"""


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
    """By name: the model, and how n samples are drawn from it with an NFE budget and a seed."""

    def vp(solver: Callable[[int], Any]) -> Callable[[Any, int, int], Tensor]:
        return lambda model, nfe, seed: sample(model, solver(nfe), (n, dim), seed)

    def cld(inner: Any, cost: int) -> Callable[[Any, int, int], Tensor]:
        def draw(model: Any, nfe: int, seed: int) -> Tensor:
            solver = SymmetricSplitting(steps=nfe // cost, inner=inner, grid="quadratic")
            return model.sde.position(sample(model, solver, (n, 2, dim), seed))

        return draw

    return {
        "VP, Adams (default)": ("vp", vp(lambda nfe: Adams().with_budget(nfe, VP()))),
        "VP, Heun": ("vp", vp(lambda nfe: Heun(steps=nfe // 2))),
        "VP, DDPM (DDIM, eta = 1)": ("vp", vp(lambda nfe: DDIM(steps=nfe, eta=1.0))),
        "VP of uniform times, Heun": ("vp of uniform times", vp(lambda nfe: Heun(steps=nfe // 2))),
        "CLD, splitting (Euler)": ("cld", cld("euler", 1)),
        "CLD, splitting (midpoint)": ("cld", cld("midpoint", 2)),
    }


def models_of(data: Data, dim: int, hidden: int, depth: int) -> dict[str, tuple[Callable[[], Any], Any]]:
    """By name: how a model is made, and its loss."""

    def vp() -> Any:
        return Denoiser(MLP(dim, hidden, depth), VP(), data.std)

    def cld() -> Any:
        return HybridScore(MLP(2 * dim, hidden, depth), CriticallyDamped(), data.std)

    return {
        "vp": (vp, DenoisingLoss()),
        "vp of uniform times": (vp, DenoisingLoss(times=UniformTimes())),
        "cld": (cld, HybridLoss()),
    }


def pm(values: list[float]) -> str:
    """Mean and its standard error over seeds."""
    x = torch.tensor(values)
    error = f" ± {float(x.std()) / math.sqrt(len(x)):.4f}" if len(x) > 1 else ""
    return f"{float(x.mean()):.4f}{error}"


def study(name: str, steps: int, seeds: int) -> str:
    data: Data = Moons() if name == "moons" else Digits()
    hidden, depth, batch = (128, 3, 512) if name == "moons" else (256, 4, 128)
    test = data.to_model(data.test, torch.Generator().manual_seed(0)).flatten(1)
    n, dim = max(1000, len(test)), test.shape[1]
    floor = energy_distance(data.to_model(data.train[:n], torch.Generator().manual_seed(1)).flatten(1), test)
    found: dict[tuple[str, int], list[float]] = {}
    sizes: dict[str, int] = {}
    for seed in range(seeds):
        models: dict[str, Any] = {}
        for kind, (make, loss) in models_of(data, dim, hidden, depth).items():
            torch.manual_seed(seed)
            models[kind] = train(make(), loss, data, steps, batch, seed)
            sizes[kind] = sum(p.numel() for p in models[kind].parameters())
        for label, (kind, draw) in samplers(n, dim).items():
            for budget in BUDGETS:
                distance = energy_distance(draw(models[kind], budget, seed), test)
                found.setdefault((label, budget), []).append(distance.value)
                print(f"{name} seed {seed} {label}, {budget} NFE: {distance}", flush=True)
    labels = list(samplers(n, dim))
    lines = [
        f"# Critically damped diffusion beside VP: {name}",
        "",
        f"`python benchmarks/critically_damped.py {name} --steps {steps} --seeds {seeds}`: {data}; {steps} steps of "
        f"{batch}, MLP({hidden}, {depth}), {sizes['vp'] / 1e3:.0f} thousand weights for VP and "
        f"{sizes['cld'] / 1e3:.0f} for CLD, which sees a velocity too. Energy distance of {n} samples to the test set, "
        f"mean and standard error over {seeds} seeds of training and sampling; that of the training set is {floor}.",
        "",
        "| | " + " | ".join(f"{budget} NFE" for budget in BUDGETS) + " |",
        "| --- |" + " --- |" * len(BUDGETS),
        *(f"| {label} | " + " | ".join(pm(found[label, budget]) for budget in BUDGETS) + " |" for label in labels),
    ]
    less = []
    for budget in BUDGETS:
        best = {
            kind: min((sum(found[label, budget]), label) for label in labels if label.startswith(kind))[1]
            for kind in ("VP, ", "CLD, ")
        }
        pairs = zip(found[best["CLD, "], budget], found[best["VP, "], budget], strict=True)
        less.append(pm([mine - other for mine, other in pairs]))
    lines += [f"| *best CLD less best VP* | {' | '.join(less)} |"]
    return "\n".join([*lines, "", READING.rstrip()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["moons", "digits"], choices=["moons", "digits"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for chosen in arguments.data:
        text = study(chosen, arguments.steps, arguments.seeds)
        (Path(__file__).parent / "results" / f"critically_damped_{chosen}.md").write_text(text + "\n")
        print(text)
