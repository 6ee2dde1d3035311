"""How close samples come to an exact posterior: our guides and particles beside those of azula and deepinv.

    python -m venv ../peers --system-site-packages
    ../peers/bin/pip install --no-deps azula deepinv einops natsort h5py torchmetrics lightning-utilities torchvision
    ../peers/bin/python benchmarks/posterior.py                      # results/posterior.jsonl and results/posterior.md
    ../peers/bin/python benchmarks/posterior.py --problems grid8     # some of the cells; the others are kept
    ../peers/bin/python benchmarks/posterior.py costs                # results/posterior_costs.json
    python benchmarks/posterior.py --quick --libraries ours          # two observations, printed and not stored
    python benchmarks/posterior.py evidence                          # results/posterior_evidence.jsonl

The peers have an environment of their own, so that they change no version of ours. azula asks for torchvision and
gdown, which its guides do not need. deepinv needs a torchvision that was built for the torch that is installed.

All get the same closed-form denoiser of a Gaussian mixture (`posterior_problems.py`) and draw 1000 samples. The score
of an observation is their sliced 2-Wasserstein distance to exact posterior samples, divided by the same distance
between two exact sets: the mean over four sets each. 1 is perfect. A cell is the median over the observations, with a
bootstrap standard error. Of a method with several settings the best one is taken in each cell, by its result there: an
oracle, for ours as for the peers. All settings run on the first two observations. The best three of them that differ
run on the others. `evidence` tells how often the stated 95% interval of log p(y) holds the truth.

Results are stored as they are made, one line for each observation, and a run that was interrupted goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from accuracy import Slices
from posterior_azula import azula
from posterior_costs import costs, stored
from posterior_deepinv import deepinv
from posterior_problems import PROBLEMS, Problem
from posterior_report import table, text
from posterior_samplers import Sampler, ours
from posterior_scores import FIRST, OBSERVATIONS, SCREENED, Score, finalists, stored_scores
from torch import Tensor

from backdrift.models import MMPS
from backdrift.solvers import particles

RESULTS = Path(__file__).parent / "results"
LIBRARIES = {"ours": ours, "azula": azula, "deepinv": deepinv}
SAMPLES, SETS = 1000, 4
BUDGETS = (50, 20, 100)


class Reference:
    """Exact samples of a posterior, and how far they are from each other."""

    def __init__(self, problem: Problem, seed: int) -> None:
        g = torch.Generator().manual_seed(seed + 10**6)
        self.slices = [Slices(problem.posterior.sample(SAMPLES, g)) for _ in range(SETS)]
        others = [problem.posterior.sample(SAMPLES, g) for _ in range(SETS)]
        self.floor = statistics.mean(self.distance(other) for other in others)

    def distance(self, x: Tensor) -> float:
        return statistics.mean(sliced(x) for sliced in self.slices)

    def ratio(self, x: Tensor) -> float:
        return self.distance(x) / self.floor if bool(x.isfinite().all()) else math.inf


@functools.cache
def posed(problem: str, seed: int) -> tuple[Problem, Reference]:
    """A problem with its exact samples."""
    made = PROBLEMS[problem](seed)
    return made, Reference(made, seed)


def run(
    problem_name: str, samplers: list[Sampler], budgets: Iterable[int], seeds: Iterable[int], path: Path | None
) -> list[Score]:
    """Score the samplers, but for what is stored already. Without a path nothing is stored."""
    done = stored_scores(path) if path is not None else {}
    made = []
    for steps in budgets:
        for seed in seeds:
            kept = finalists(done.values(), problem_name, steps) if seed >= FIRST + SCREENED else None
            for sampler in samplers:
                if (problem_name, sampler.name, sampler.setting, steps, seed) in done:
                    continue
                if kept is not None and sampler.name in kept and sampler.setting not in kept[sampler.name]:
                    continue
                try:
                    score = scored(problem_name, sampler, steps, seed)
                except NotImplementedError:
                    continue
                made.append(score)
                done[score.key] = score
                if path is not None:
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(score)) + "\n")
            print(f"{problem_name}, {steps} steps, observation {seed}: {len(made)} scores", flush=True)
    return made


def scored(problem_name: str, sampler: Sampler, steps: int, seed: int) -> Score:
    problem, reference = posed(problem_name, seed)
    began = time.process_time()
    ratio = reference.ratio(sampler.run(problem, steps, SAMPLES, seed).double())
    seconds = round(time.process_time() - began, 2)
    return Score(problem_name, sampler.name, sampler.setting, steps, seed, round(ratio, 4), seconds)


def evidence(number: int, path: Path) -> None:
    """Log-evidences of so many observations of `grid8`, by particles with their defaults."""
    done = {json.loads(line)["seed"] for line in path.read_text().splitlines()} if path.exists() else set()
    for seed in range(2000, 2000 + number):
        if seed in done:
            continue
        problem = PROBLEMS["grid8"](seed)
        guide = MMPS(problem.prior, problem.measurement, iterations=None)
        found = particles(guide, (8,), steps=50, kernel="full", measure_discretisation=True, seed=seed)
        low, high = found.interval()
        row = {
            "seed": seed,
            "error": float(found.log_evidence - problem.log_evidence),
            "low": float(low - found.log_evidence),
            "high": float(high - found.log_evidence),
        }
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("samples", "costs", "evidence", "table"), default="samples")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--methods", nargs="+", help="names as in the table; all by default")
    parser.add_argument("--steps", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--observations", type=int, help=f"by default {OBSERVATIONS}, and 200 for the evidence")
    parser.add_argument("--quick", action="store_true", help="two observations with 20 steps, printed and not stored")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "posterior.jsonl"
    if given.what == "evidence":
        evidence(given.observations or 200, RESULTS / "posterior_evidence.jsonl")
    elif given.what in ("samples", "costs"):
        samplers = [sampler for library in given.libraries for sampler in LIBRARIES[library]()]
        unknown = set(given.methods or []) - {sampler.name for sampler in samplers}
        if unknown:
            parser.error(f"--methods: expected names of methods, got {', '.join(sorted(unknown))}")
        samplers = [sampler for sampler in samplers if not given.methods or sampler.name in given.methods]
        for problem in given.problems:
            if given.what == "costs":
                costs(problem, samplers, RESULTS / "posterior_costs.json")
                continue
            seeds = range(FIRST, FIRST + (2 if given.quick else given.observations or OBSERVATIONS))
            made = run(problem, samplers, (20,) if given.quick else given.steps, seeds, None if given.quick else path)
            if given.quick:
                print("\n".join(table(made, problem, stored(RESULTS / "posterior_costs.json"))))
    if not given.quick:
        (RESULTS / "posterior.md").write_text(
            text(list(stored_scores(path).values()), stored(RESULTS / "posterior_costs.json"), RESULTS),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
