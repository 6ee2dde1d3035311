"""The root mean square error of the default solver beside that of other libraries, on many samples of new instances.

    pip install -e ".[benchmarks]"
    python benchmarks/rms.py            # writes results/rms.md

The peers' settings are those that had the least median error in `results/accuracy_300.csv`, and the instances are
others (seeds from 9000), so that nothing was chosen on them. `accuracy.py` says how the error is measured. It also
gives a root mean square, of 144 to 576 samples. One sample that ends in another mode than the exact flow decides that
number, so that there are many more samples here, and the standard error of the ratio is stated.
"""

from __future__ import annotations

import csv
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from accuracy import BUDGETS, Instance, distances, instances, of_table
from peers import LIBRARIES
from torch import Tensor

from backdrift.solvers import Adams

RESULTS = Path(__file__).parent / "results"
PLAN = {"modes": (12, 192), "decades": (6, 256), "digits": (4, 128)}
"""Instances of each problem, and samples of each."""
FIRST_SEED = 9000
WORST = 0.01
"""The share of the samples that the last column leaves out."""

COLUMNS = (
    "evaluations",
    "median of the best library / ours",
    "our root mean square",
    "least of another library",
    "ours / least",
    "share of our worst 1% in our squared error",
    "ours / least, without the worst 1% of each",
)


@dataclass(frozen=True)
class Errors:
    """Distances to the exact flow `[n]` of a solver."""

    name: str
    distance: Tensor

    @property
    def rms(self) -> float:
        return float(self.distance.square().mean().sqrt())

    @property
    def of_most(self) -> float:
        """The root mean square without the worst samples."""
        kept = self.distance.sort().values[: math.ceil((1 - WORST) * len(self.distance))]
        return float(kept.square().mean().sqrt())


def ratio(ours: Errors, theirs: Errors) -> str:
    """Our root mean square over theirs, with the standard error of paired samples by the delta method."""
    a, b = ours.distance.square(), theirs.distance.square()
    value = ours.rms / theirs.rms
    spread = float((a / a.mean() - b / b.mean()).std()) / math.sqrt(len(a))
    return f"{value:.2f} ± {value * spread / 2:.2f}"


def settings_of(problem: str) -> dict[tuple[str, int], str]:
    """The best setting of each library at each number of evaluations, on the instances of `accuracy_300.csv`."""
    with (RESULTS / "accuracy_300.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["problem"] == problem]
    return {(row["library"], int(row["nfe"])): row["setting"] for row in rows}


def peers_errors(problem: str, among: list[Instance], nfe: int) -> list[Errors]:
    """Of each library, with its setting."""
    chosen, found = settings_of(problem), []
    for library, listed in LIBRARIES.items():
        setting = chosen[library, nfe]
        peers = [next(p for p in listed(i.model.data_std) if p.setting == setting) for i in among]
        distance = distances(peers, among, nfe)
        if distance is not None:
            found.append(Errors(library, distance))
    return found


def row(problem: str, among: list[Instance], nfe: int) -> str:
    """A line of the table for one number of evaluations."""
    default = [of_table("default", "Adams()", i.model, Adams()) for i in among]
    distance = distances(default, among, nfe)
    assert distance is not None
    ours, others = Errors("default", distance), peers_errors(problem, among, nfe)
    best = min(others, key=lambda each: each.rms)
    of_most = min(others, key=lambda each: each.of_most)
    squares = distance.square().sort(descending=True).values
    worst = float(squares[: math.floor(WORST * len(squares))].sum() / squares.sum())
    median = min(float(each.distance.median()) for each in others) / float(distance.median())
    return (
        f"| {nfe} | {median:.2f} | {ours.rms:.3g} | {best.rms:.3g} ({best.name}) | {ratio(ours, best)} | {worst:.0%} | "
        f"{ours.of_most / of_most.of_most:.2f} |"
    )


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines = ["# Root mean square error of the default solver", "", "    python benchmarks/rms.py"]
    lines += ["", "How it is measured: the top of `benchmarks/rms.py`. Float64, CPU."]
    for problem, (count, samples) in PLAN.items():
        among = instances(problem, range(FIRST_SEED, FIRST_SEED + count), samples)
        lines += ["", f"## {problem}, {samples} samples of each of {count} instances", ""]
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for nfe in BUDGETS:
            lines.append(row(problem, among, nfe))
            print(f"{problem} {lines[-1]}", flush=True)
    (RESULTS / "rms.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
