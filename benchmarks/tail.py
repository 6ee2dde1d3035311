"""What makes the root mean square error of the default solver: many samples, or the worst one.

    python benchmarks/tail.py

`Adams()` at several numbers of evaluations on instances that nothing was chosen on (seeds from 3000). The error of a
sample is its distance to the exact flow from the same noise, as in `benchmarks/accuracy.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from problems import PROBLEMS, SDE, exact_flow, start
from torch import Tensor

from backdrift.solvers import Adams

INSTANCES = {"modes": 12, "decades": 6, "digits": 4}
SAMPLES = 48
BUDGETS = (5, 8, 10, 15, 20, 35, 50, 100)
FEW = 0.02
"""The share of the samples that are left out in the last column."""


def distances(problem: str) -> dict[int, Tensor]:
    """The errors of all samples at each number of evaluations."""
    found: dict[int, list[Tensor]] = {nfe: [] for nfe in BUDGETS}
    for seed in range(3000, 3000 + INSTANCES[problem]):
        model = PROBLEMS[problem](seed)
        x = start(model, SAMPLES, seed + 1)
        exact, _ = exact_flow(model, x)
        for nfe in BUDGETS:
            with torch.no_grad():
                y = Adams().with_budget(nfe, SDE).solve(model, x)
            found[nfe].append((y - exact).norm(dim=1))
    return {nfe: torch.cat(parts) for nfe, parts in found.items()}


def row(nfe: int, distance: Tensor) -> str:
    squares = distance.square().sort(descending=True).values
    left_out = max(1, round(FEW * len(squares)))
    shares = squares[0] / squares.sum(), squares[:left_out].sum() / squares.sum()
    values = distance.median(), squares.mean().sqrt(), distance.max()
    cells = [f"{value:.3g}" for value in values] + [f"{100 * share:.0f}%" for share in shares]
    return f"| {nfe} | " + " | ".join([*cells, f"{squares[left_out:].mean().sqrt():.3g}"]) + " |"


def main() -> None:
    torch.set_num_threads(1)
    lines = ["# The tail of the default solver's error", "", "    python benchmarks/tail.py", ""]
    for problem, count in INSTANCES.items():
        head = ["evaluations", "median", "root mean square", "worst sample", "its share of the squared error"]
        head += ["share of the worst 2%", "root mean square without them"]
        lines += [f"## {problem}, {SAMPLES} samples of each of {count} instances", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += [row(nfe, distance) for nfe, distance in distances(problem).items()] + [""]
    text = "\n".join(lines)
    (Path(__file__).parent / "results" / "tail.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
