"""The page of results of `posterior.py`: tables, goals and what missed them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from posterior_costs import Cost
from posterior_problems import TITLES
from posterior_scores import OBSERVATIONS, Cell, Score, cells, difference
from scipy.stats import binomtest

GOALS = {"grid8": 1.1, "grid80": 1.15, "digits784": 1.05}
"""What our best sampler should reach with 50 steps."""
MARGIN = 1.05
"""How far a guide of ours may be behind the same guide of a peer, besides two standard errors."""
PEERS = ("azula", "deepinv")
HEAD = f"""# Samples of posteriors beside the guides of azula 0.11.1 and deepinv 0.5.0

`python benchmarks/posterior.py`, then the same with `costs` and with `evidence`, makes this page. All samplers get the
same closed-form denoiser and draw 1000 samples. A figure is the sliced 2-Wasserstein distance to exact posterior
samples, divided by that between two exact sets: 1 is perfect. It is the median over {OBSERVATIONS} observations with
its bootstrap standard error. A number in brackets is that of the observations, where there were others. One set of 1000
samples varies by some 0.3 in these ratios, so that values below 1 are as good as 1.

Each method has its best setting in each cell, chosen by its result there, for ours as for the peers. All settings run
on two observations and the best three on the others. The setting named is that of the largest budget. A product is one
product with the Jacobian of the denoiser, about one evaluation. Products are counted while a method runs, the same way
for all, for a sample and a step; those of particles are for a particle. An empty cell was not run: the method cannot
take the measurement, needs too many products, or its turn did not come. azula's CFG needs classes, and its RePaint
takes a mask alone."""


def table(found: Iterable[Score], problem: str, cost: dict[tuple[str, str, str], Cost]) -> list[str]:
    """Methods by budgets."""
    best = cells(found, problem)
    budgets = sorted({steps for _, steps in best})
    lines = [
        "| method | products a step | " + " | ".join(f"{steps} steps" for steps in budgets) + " | best setting |",
        "| --- " * (len(budgets) + 3) + "|",
    ]
    for name in sorted({name for name, _ in best}, key=_order):
        row = [best.get((name, steps)) for steps in budgets]
        setting = next(cell.setting for cell in reversed(row) if cell is not None)
        known = cost.get((problem, name, setting))
        count = "" if known is None else f"{known.products:.3g}"
        figures = " | ".join("" if cell is None else str(cell) for cell in row)
        lines.append(f"| {name} | {count} | {figures} | {setting} |")
    return lines


def _order(name: str) -> tuple[int, str]:
    """The oracle, our particles, our guides, then the peers."""
    if name.startswith(PEERS):
        return 3, name
    return (0 if name == "exact denoiser" else 1 if name.startswith("particles") else 2), name


def goals(found: list[Score]) -> list[str]:
    """Our best sampler beside its goal, for each problem."""
    lines = ["| problem | goal with 50 steps | our best sampler | figure | met |", "| --- " * 5 + "|"]
    for problem, goal in GOALS.items():
        best = {
            key: cell for key, cell in cells(found, problem).items() if _order(key[0])[0] in (1, 2) and key[1] == 50
        }
        if not best:
            lines.append(f"| {TITLES[problem]} | {goal:g} | not measured | | |")
            continue
        (name, _), cell = min(best.items(), key=lambda item: item[1].median)
        lines.append(f"| {TITLES[problem]} | {goal:g} | {name} | {cell} | {'yes' if cell.median <= goal else 'no'} |")
    return lines


def behind(found: list[Score]) -> list[str]:
    """Where a guide of ours is behind the same guide of a peer, and in how many cells it is not."""
    level, lines = 0, []
    for problem, title in TITLES.items():
        best = cells(found, problem)
        for (name, steps), theirs in best.items():
            library, _, guide = name.partition(" ")
            ours = best.get((guide, steps))
            if library not in PEERS or ours is None or not ours.ratios.keys() & theirs.ratios.keys():
                continue
            if _level(ours, theirs):
                level += 1
            else:
                lines.append(f"- {title}, {steps} steps: {guide} {ours}, {library} {theirs}.")
    tail = (
        f"In {level} of {level + len(lines)} cells a guide of ours is level with the same guide of a peer, or nearer."
    )
    return [tail, *(["The others are", "", *lines] if lines else [])]


def _level(ours: Cell, theirs: Cell) -> bool:
    """Within 5% or two standard errors of the difference, or better, on the observations that both have."""
    apart, error = difference(ours, theirs)
    both = ours.ratios.keys() & theirs.ratios.keys()
    least = Cell(theirs.setting, {seed: theirs.ratios[seed] for seed in both}).median
    return apart <= (MARGIN - 1) * least or apart <= 2 * error


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
        f"{100 * held / len(rows):.1f}% (95% binomial interval {low:.1f}% to {high:.1f}%).",
        "The goal is 90.5 to 98.5% of 200.",
        f"The median error was {float(errors.median()):.3f} nats,",
        f"the median half-width {float(widths.median()):.3f} nats.",
        '8-D, `kernel="full"`, 50 steps, 8 runs of 128 particles, with the discretisation measured.',
    ]


def text(found: list[Score], cost: dict[tuple[str, str, str], Cost], results: Path) -> str:
    """The page. What a person writes about it is in `posterior_notes.md`, and stands after the goals."""
    notes = results / "posterior_notes.md"
    lines = [HEAD, "", "## Goals", "", *goals(found), "", *behind(found)]
    if notes.exists():
        lines += ["", notes.read_text(encoding="utf-8").strip()]
    for problem, title in TITLES.items():
        measured = any(score.problem == problem for score in found)
        lines += ["", f"## {title}", "", *(table(found, problem, cost) if measured else ["Not measured yet."])]
    return "\n".join([*lines, "", "## Evidence", "", *evidence_text(results / "posterior_evidence.jsonl")]) + "\n"
