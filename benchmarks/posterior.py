"""How close samples come to an exact posterior: our guides and particles beside azula's guides.

    python -m venv ../peers --system-site-packages && ../peers/bin/pip install --no-deps azula einops tqdm
    ../peers/bin/python benchmarks/posterior.py                    # results/posterior.jsonl and results/posterior.md
    ../peers/bin/python benchmarks/posterior.py --problems grid8   # some of the cells; the others are kept
    python benchmarks/posterior.py --quick --libraries ours          # two observations, printed and not stored
    python benchmarks/posterior.py evidence                          # results/posterior_evidence.jsonl

azula asks for torchvision and gdown, which its guides do not need. All get the same closed-form denoiser of a Gaussian
mixture (`posterior_problems.py`) and draw 1000 samples. The score of an observation is their sliced 2-Wasserstein
distance to exact posterior samples, divided by the same distance between two exact sets: the mean over four sets each.
1 is perfect. A cell is the median over the observations, with a bootstrap standard error. Of a method with several
settings the best one is taken in each cell, by its result there: an oracle, for ours as for azula's. `evidence` tells
how often the stated 95% interval of log p(y) holds the truth.

Results are stored as they are made, one line for each observation, and a run that was interrupted goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accuracy import Slices
from posterior_problems import PROBLEMS, TITLES, Problem
from posterior_samplers import Sampler, azula, ours
from scipy.stats import binomtest
from torch import Tensor

from backdrift.models import MMPS
from backdrift.solvers import particles

RESULTS = Path(__file__).parent / "results"
LIBRARIES = {"ours": ours, "azula": azula}
FIRST, OBSERVATIONS, SAMPLES, SETS = 1000, 8, 1000, 4
BUDGETS = (50, 20, 100)


@dataclass(frozen=True)
class Score:
    """One sampler on one observation. `ratio` is infinite where samples are not finite."""

    problem: str
    name: str
    setting: str
    products: str
    steps: int
    seed: int
    ratio: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        return self.problem, self.name, self.setting, self.steps, self.seed


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


def scores(path: Path) -> dict[tuple[str, str, str, int, int], Score]:
    if not path.exists():
        return {}
    found = [Score(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {score.key: score for score in found}


def run(
    problem_name: str, samplers: list[Sampler], budgets: Iterable[int], seeds: Iterable[int], path: Path | None
) -> list[Score]:
    done = scores(path) if path is not None else {}
    made = []
    for steps in budgets:
        for seed in seeds:
            problem = PROBLEMS[problem_name](seed)
            reference = Reference(problem, seed)
            for sampler in samplers:
                if (problem_name, sampler.name, sampler.setting, steps, seed) in done:
                    continue
                began = time.process_time()
                try:
                    ratio = reference.ratio(sampler.run(problem, steps, SAMPLES, seed).double())
                except NotImplementedError:
                    continue
                seconds = round(time.process_time() - began, 2)
                score = Score(
                    problem_name, sampler.name, sampler.setting, sampler.products, steps, seed, round(ratio, 4), seconds
                )
                made.append(score)
                if path is not None:
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(score)) + "\n")
            print(f"{problem_name}, {steps} steps, observation {seed}: {len(made)} scores", flush=True)
    return made


def bootstrap(values: list[float]) -> float:
    """The standard deviation of the median over 2000 resampled sets of observations."""
    x = torch.tensor(values).clamp(max=1e6)
    g = torch.Generator().manual_seed(0)
    return float(x[torch.randint(len(x), (2000, len(x)), generator=g)].quantile(0.5, 1).std())


def table(found: Iterable[Score], problem: str) -> list[str]:
    """Methods by budgets: the median of the setting with the least one."""
    groups: dict[tuple[str, int], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for score in found:
        if score.problem == problem:
            groups[score.name, score.steps][score.setting, score.products].append(score.ratio)
    budgets = sorted({steps for _, steps in groups})
    lines = [
        "| method | products a step | " + " | ".join(f"{steps} steps" for steps in budgets) + " | best setting |",
        "| --- " * (len(budgets) + 3) + "|",
    ]
    for name in dict.fromkeys(name for name, _ in groups):
        cells, setting, products = [], "", ""
        for steps in budgets:
            settings = groups.get((name, steps), {})
            if not settings:
                cells.append("")
                continue
            (setting, products), values = min(settings.items(), key=lambda item: statistics.median(item[1]))
            number = "" if len(values) == OBSERVATIONS else f" ({len(values)})"
            middle = statistics.median(values)
            error = f" ± {bootstrap(values):.2g}" if len(values) > 2 else ""
            cells.append("over 1000" if middle > 1000 else f"{middle:.3g}{error}{number}")
        lines.append(f"| {name} | {products} | " + " | ".join(cells) + f" | {setting} |")
    return lines


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
            "error": float(found.log_evidence - problem.prior.log_evidence(problem.measurement)),
            "low": float(low - found.log_evidence),
            "high": float(high - found.log_evidence),
        }
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def evidence_text(path: Path) -> list[str]:
    if not path.exists():
        return ["Not measured yet."]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    held = sum(row["low"] <= -row["error"] <= row["high"] for row in rows)
    interval = binomtest(held, len(rows)).proportion_ci()
    errors = torch.tensor([abs(row["error"]) for row in rows])
    widths = torch.tensor([(row["high"] - row["low"]) / 2 for row in rows])
    low, high = 100 * interval.low, 100 * interval.high
    return [
        f"The stated 95% interval of log p(y) held the truth for {held} of {len(rows)} observations,",
        f"{100 * held / len(rows):.1f}% (95% binomial interval {low:.1f}% to {high:.1f}%). The median error was",
        f"{float(errors.median()):.3f} nats, the median half-width {float(widths.median()):.3f} nats. 8-D,",
        '`kernel="full"`, 50 steps, 8 runs of 128 particles, with the discretisation measured.',
    ]


def text(found: list[Score]) -> str:
    lines = [
        "# Samples of posteriors beside azula 0.11's guides",
        "",
        "`python benchmarks/posterior.py`, then `python benchmarks/posterior.py evidence`. 1000 samples; the sliced",
        "2-Wasserstein distance to exact posterior samples divided by that between two exact sets (1 is perfect), the",
        f"median over {OBSERVATIONS} observations with its bootstrap standard error. A number in brackets is that of",
        "the observations, where others were run. Each method has its best setting in each cell, chosen later. The",
        "one named is that of the largest budget. A product is one product with the Jacobian of the denoiser for each",
        "sample, about one evaluation; m and d are the sizes of measurement and sample. One set of 1000 samples varies",
        "by some 0.3 in these ratios: values below 1 are as good as 1, and cells of one observation tell little. CFG",
        "of azula needs classes and its RePaint a mask, so that neither is run on the grids of modes.",
    ]
    for problem, title in TITLES.items():
        measured = any(score.problem == problem for score in found)
        lines += ["", f"## {title}", "", *(table(found, problem) if measured else ["Not measured yet."])]
    return "\n".join([*lines, "", "## Evidence", "", *evidence_text(RESULTS / "posterior_evidence.jsonl")]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("samples", "evidence", "table"), default="samples")
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
    elif given.what == "samples":
        samplers = [sampler for library in given.libraries for sampler in LIBRARIES[library]()]
        unknown = set(given.methods or []) - {sampler.name for sampler in samplers}
        if unknown:
            parser.error(f"--methods: expected names of methods, got {', '.join(sorted(unknown))}")
        samplers = [sampler for sampler in samplers if not given.methods or sampler.name in given.methods]
        for problem in given.problems:
            seeds = range(FIRST, FIRST + (2 if given.quick else given.observations or OBSERVATIONS))
            made = run(problem, samplers, (20,) if given.quick else given.steps, seeds, None if given.quick else path)
            if given.quick:
                print("\n".join(table(made, problem)))
    if not given.quick:
        (RESULTS / "posterior.md").write_text(text(list(scores(path).values())), encoding="utf-8")


if __name__ == "__main__":
    main()
