"""Our scheduler beside every deterministic scheduler of diffusers, on a network of diffusers that was trained here.

    pip install -e ".[diffusers]"
    python benchmarks/digits_pipeline.py FOLDER
    python benchmarks/diffusers_schedulers.py FOLDER

Each scheduler starts from the same noise and takes 5, 8, 10 or 20 evaluations of the same network. Two things are
measured: the distance of each sample to the end of the exact probability flow from its noise (the median and the root
mean square over the samples, each the root mean square over the pixels), and the energy distance of all samples to the
test set, with its error.

Of diffusers' schedulers every documented spacing of times and order runs (`SETTINGS`). All are screened on a part of
the noise, and the best two of each class, by their median, run on all of it. The least median of them is reported, so
that the user of diffusers is taken to know the best setting of each class for this network and number of evaluations.
Schedulers with two evaluations a step take one more than asked where they cannot take as many.

Not here: `IPNDMScheduler`, which has a process of its own; `EDM*` and `CosineDPMSolver*`, for networks with the
preconditioning of Karras et al. (2022); schedulers of distilled or of flow-matching networks; and those that draw
noise.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from backdrift.data import Digits
from backdrift.evaluation.metrics import Estimate, energy_distance
from backdrift.interop import TableScheduler, from_diffusers
from backdrift.solvers import Adams, sample, tune
from backdrift.solvers.tables import lower_begin

BUDGETS = (5, 8, 10, 20)
REFERENCE = 250
OURS = ("TableScheduler, default", "TableScheduler, start=None", "TableScheduler, tuned")
SCREENED = 16

Setting = dict[str, Any]

SPACINGS: list[Setting] = [{"timestep_spacing": name} for name in ("leading", "trailing", "linspace")]
SIGMAS: list[Setting] = [{f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")]
LU: list[Setting] = [{"use_lu_lambdas": True}]
ORDERS: list[Setting] = [{"solver_order": order} for order in (2, 3)]


def crossed(*groups: list[Setting]) -> list[Setting]:
    """Every combination of one setting of each group."""
    found: list[Setting] = [{}]
    for group in groups:
        found = [{**one, **other} for one in found for other in group]
    return found


SETTINGS: dict[str, list[Setting]] = {
    "DDIMScheduler": crossed(SPACINGS, [{"clip_sample": False}]),
    "PNDMScheduler": crossed(
        SPACINGS, [{"skip_prk_steps": True}], [{"set_alpha_to_one": one} for one in (False, True)]
    ),
    "DPMSolverMultistepScheduler": [
        *crossed(ORDERS, SPACINGS + SIGMAS + LU),
        *crossed(ORDERS, SPACINGS + LU, [{"euler_at_final": True}]),
        *crossed(ORDERS, SPACINGS, [{"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}]),
    ],
    "DPMSolverSinglestepScheduler": crossed(ORDERS, [{}, *SIGMAS], [{"lower_order_final": True}]),
    "DEISMultistepScheduler": crossed(ORDERS, SPACINGS + SIGMAS),
    "UniPCMultistepScheduler": crossed(ORDERS, SPACINGS + SIGMAS, [{"solver_type": kind} for kind in ("bh1", "bh2")]),
    "SASolverScheduler": crossed(
        [{"predictor_order": order, "corrector_order": order} for order in (2, 3)], SPACINGS + SIGMAS
    ),
    "HeunDiscreteScheduler": SPACINGS + SIGMAS,
    "KDPM2DiscreteScheduler": SPACINGS + SIGMAS,
    "EulerDiscreteScheduler": SPACINGS + SIGMAS,
    "LMSDiscreteScheduler": SPACINGS + SIGMAS,
}


@dataclass(frozen=True)
class Result:
    """What one scheduler reached at one number of evaluations.

    Attributes:
        scheduler: its class, or the name of ours.
        setting: what was set.
        nfe: the evaluations that were allowed.
        taken: those that it took.
        median, rms: of the distances to the exact flow.
        to_test: the energy distance to the test set.
    """

    scheduler: str
    setting: str
    nfe: int
    taken: int
    median: float
    rms: float
    to_test: Estimate


class Comparison:
    """The network, the noise, the ends of the exact flow, and the test set.

    Args:
        folder: of the pipeline.
        samples: how many.
        seed: of the noise.
    """

    def __init__(self, folder: Path, samples: int, seed: int) -> None:
        pipeline = diffusers.DDIMPipeline.from_pretrained(str(folder))
        self.unet, self.config = pipeline.unet.eval().requires_grad_(False), pipeline.scheduler.config
        data = Digits()
        self.test = data.to_model(data.test, torch.Generator().manual_seed(seed))
        self.train = data.to_model(data.train[:samples], torch.Generator().manual_seed(seed + 1))
        self.model = from_diffusers(pipeline, data_std=data.std)
        self.noise = torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(seed + 2))
        start = float(self.model.sde.prior.std) * self.noise
        self.exact = sample(self.model, Adams(steps=REFERENCE), x_T=start)
        self.check = distances(sample(self.model, Adams(steps=REFERENCE // 2), x_T=start), self.exact).median()

    @torch.no_grad()
    def run(self, scheduler: Any, nfe: int, noise: Tensor) -> tuple[Tensor, int]:
        """The samples of a scheduler with `nfe` evaluations or the least number above it, and that number."""
        for steps in (nfe, *range(max(nfe // 3, 1), nfe)):  # most take one evaluation a step
            scheduler.set_timesteps(steps)
            if steps == nfe and len(scheduler.timesteps) > nfe:
                continue
            if len(scheduler.timesteps) >= nfe:
                break
        x = noise * float(scheduler.init_noise_sigma)
        for t in scheduler.timesteps:
            x = scheduler.step(self.unet(scheduler.scale_model_input(x, t), t).sample, t, x, return_dict=False)[0]
        return x, len(scheduler.timesteps)

    def result(self, name: str, setting: str, scheduler: Any, nfe: int) -> Result:
        """What a scheduler reaches from all of the noise."""
        x, taken = self.run(scheduler, nfe, self.noise)
        far = distances(x, self.exact)
        rms = float(far.square().mean().sqrt())
        return Result(name, setting, nfe, taken, float(far.median()), rms, energy_distance(x, self.test))

    def best(self, name: str, nfe: int) -> Result | None:
        """The setting of a class of diffusers with the least median, of the two that were nearest in the screening."""
        screened = []
        for index, setting in enumerate(SETTINGS[name]):
            try:
                x, _ = self.run(self.theirs(name, setting), nfe, self.noise[:SCREENED])
            except (ValueError, IndexError, AssertionError, ZeroDivisionError, RuntimeError):
                continue  # not possible with so few steps
            far = float(distances(x, self.exact[:SCREENED]).median())
            if math.isfinite(far):
                screened.append((far, index))
        chosen = [SETTINGS[name][index] for _, index in sorted(screened)[:2]]
        results = [self.result(name, described(one), self.theirs(name, one), nfe) for one in chosen]
        return min(results, key=lambda one: one.median, default=None)

    def theirs(self, name: str, setting: Setting) -> Any:
        """A scheduler of diffusers on the betas of the pipeline."""
        kept = {key: self.config[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
        extra: dict[str, Any] = {"tau_func": lambda t: 0.0} if name == "SASolverScheduler" else {}
        return getattr(diffusers, name)(**kept, **setting, **extra)

    def ours(self, nfe: int, iterations: int) -> Iterator[Result]:
        """The default, the same from T on, and a solver that was tuned from other noise."""
        std = self.model.data_std
        scheduler = TableScheduler.from_config(self.config, solver=Adams(), data_std=std)
        yield self.result(OURS[0], "Adams()", scheduler, nfe)
        scheduler = TableScheduler.from_config(self.config, solver=Adams(), data_std=std, start=None)
        yield self.result(OURS[1], "Adams(), start=None", scheduler, nfe)
        if iterations:
            fitted = tune(
                self.model, nfe=nfe, shape=(1, 8, 8), batch=24, iterations=iterations, reference_steps=32, seed=7
            )
            setting = f"tune(nfe={nfe}, batch=24, iterations={iterations}), {fitted.seconds:.0f} s"
            yield self.result(OURS[2], setting, TableScheduler.from_config(self.config, solver=fitted.solver), nfe)


def starts(comparison: Comparison) -> None:
    """Print the median distance of our default for several values of `BEGIN_RATIO`, the shipped one in the middle."""
    shipped = lower_begin.BEGIN_RATIO
    for nfe in BUDGETS:
        for ratio in (shipped / 2, 0.75 * shipped, shipped, 1.5 * shipped, 2 * shipped):
            lower_begin.BEGIN_RATIO = ratio
            found = next(comparison.ours(nfe, iterations=0))
            print(f"{nfe:>3} evaluations, BEGIN_RATIO = {ratio:g}: {found.median:.4g}", flush=True)
    lower_begin.BEGIN_RATIO = shipped


def distances(x: Tensor, exact: Tensor) -> Tensor:
    """Of each sample, the root mean square over its pixels, `[n]` in float64."""
    return (x - exact).double().square().flatten(1).mean(1).sqrt()


def described(setting: Setting) -> str:
    return ", ".join(f"{name}={value}" for name, value in setting.items()) or "as it is"


def table(results: list[Result], cell: Callable[[Result], str], key: Callable[[Result], float]) -> str:
    """A markdown table, schedulers by evaluations, the least in bold."""
    budgets = sorted({one.nfe for one in results})
    least = {nfe: min(key(one) for one in results if one.nfe == nfe) for nfe in budgets}
    lines = ["| | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    for name in dict.fromkeys(one.scheduler for one in results):
        cells = []
        for nfe in budgets:
            found = [one for one in results if (one.scheduler, one.nfe) == (name, nfe)]
            text = "".join(map(cell, found)) + "".join(f" ({one.taken})" for one in found if one.taken != nfe)
            cells.append(f"**{text}**" if found and key(found[0]) == least[nfe] else text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def nearest(results: list[Result]) -> str:
    """By how much ours is nearer than the best of diffusers, for each number of evaluations."""
    budgets = sorted({one.nfe for one in results})
    lines = ["| | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    for measure in ("median", "rms"):
        for name in OURS:
            cells = []
            for nfe in budgets:
                mine = [getattr(one, measure) for one in results if (one.scheduler, one.nfe) == (name, nfe)]
                best = min(getattr(o, measure) for o in results if o.nfe == nfe and o.scheduler not in OURS)
                cells.append(f"{best / mine[0]:.2f}" if mine else "")
            lines.append(f"| {measure}, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(comparison: Comparison, results: list[Result], command: str) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers"))
    floor = energy_distance(comparison.train, comparison.test)
    flow = energy_distance(comparison.exact, comparison.test)
    parts = [
        "# Our scheduler beside those of diffusers, on a network of diffusers",
        f"    python benchmarks/digits_pipeline.py FOLDER\n    {command}",
        f"{versions}; CPU, float32, {len(comparison.noise)} samples. What is measured, and how a setting of diffusers "
        "is chosen, stands at the top of `benchmarks/diffusers_schedulers.py`. A number of evaluations other than that "
        "of the column is in parentheses. The least of a column is bold.",
        "## Median distance to the exact flow",
        f"In units of the pixels, which lie in [-1, 1]. The reference is `Adams` in {REFERENCE} steps. In half as many "
        f"it ends {float(comparison.check):.1g} from there (median).",
        table(results, lambda one: f"{one.median:.3g}", lambda one: one.median),
        "## Root mean square of the distances",
        table(results, lambda one: f"{one.rms:.3g}", lambda one: one.rms),
        "## The distance of diffusers' best scheduler divided by ours (above 1: ours is nearer)",
        nearest(results),
        "## Energy distance to the test set",
        f"± is a standard error. That of the exact flow's samples is {flow}, and of {len(comparison.train)} training "
        f"digits {floor}.",
        table(results, lambda one: str(one.to_test), lambda one: one.to_test.value),
        "## Settings",
        "\n".join(f"- {one.scheduler}, {one.nfe}: {one.setting}" for one in results),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pipeline that digits_pipeline.py wrote")
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=25, help="of tuning; 0 for none")
    parser.add_argument("--starts", action="store_true", help="fit BEGIN_RATIO, and compare nothing")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/diffusers_schedulers.md"))
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    comparison = Comparison(given.folder, given.samples, given.seed)
    if given.starts:
        starts(comparison)
    results: list[Result] = []
    for nfe in () if given.starts else BUDGETS:
        results += comparison.ours(nfe, given.iterations)
        results += filter(None, (comparison.best(name, nfe) for name in SETTINGS))
        for one in results:
            if one.nfe == nfe:
                print(f"{nfe:>3} {one.scheduler:<30} {one.median:.4g} {one.rms:.4g} {one.setting}", flush=True)
        rest = f" --samples {given.samples} --seed {given.seed} --iterations {given.iterations}"
        given.out.write_text(report(comparison, results, f"python benchmarks/diffusers_schedulers.py FOLDER{rest}"))


if __name__ == "__main__":
    main()
