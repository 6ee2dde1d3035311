"""Scores of samplers of posteriors: how they are stored, and the figure of a cell."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

FIRST, OBSERVATIONS = 1000, 8
SCREENED, FINALISTS = 2, 3
"""Observations on which every setting runs, and the settings of a method that run on all others."""


@dataclass(frozen=True)
class Score:
    """One sampler on one observation. `ratio` is infinite where samples are not finite."""

    problem: str
    name: str
    setting: str
    steps: int
    seed: int
    ratio: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        return self.problem, self.name, self.setting, self.steps, self.seed


@dataclass(frozen=True)
class Cell:
    """A method with so many steps: the median ratio of its best setting, with its bootstrap standard error."""

    setting: str
    ratios: dict[int, float]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios.values())

    @property
    def error(self) -> float:
        """nan where there are too few observations for one."""
        return bootstrap(list(self.ratios.values())) if len(self.ratios) > 2 else float("nan")

    def __str__(self) -> str:
        number = "" if len(self.ratios) == OBSERVATIONS else f" ({len(self.ratios)})"
        if self.median > 1000:
            return f"over 1000{number}"
        return f"{self.median:.3g}" + (f" ± {self.error:.2g}" if len(self.ratios) > 2 else "") + number


def stored_scores(path: Path) -> dict[tuple[str, str, str, int, int], Score]:
    if not path.exists():
        return {}
    found = [Score(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {score.key: score for score in found}


def bootstrap(values: list[float]) -> float:
    """The standard deviation of the median over 2000 resampled sets of observations."""
    x = torch.tensor(values).clamp(max=1e6)
    g = torch.Generator().manual_seed(0)
    return float(x[torch.randint(len(x), (2000, len(x)), generator=g)].quantile(0.5, 1).std())


def difference(ours: Cell, theirs: Cell) -> tuple[float, float]:
    """The difference of two medians over the observations that both have, and its bootstrap standard error.

    Observations are resampled in pairs, since an observation that is hard for one is hard for the other. The error is
    nan where there are fewer than three.
    """
    both = sorted(ours.ratios.keys() & theirs.ratios.keys())
    pair = torch.tensor([[cell.ratios[seed] for seed in both] for cell in (ours, theirs)]).clamp(max=1e6)
    middle = pair.quantile(0.5, 1)
    drawn = pair[:, torch.randint(len(both), (2000, len(both)), generator=torch.Generator().manual_seed(0))]
    medians = drawn.quantile(0.5, 2)
    error = float((medians[0] - medians[1]).std()) if len(both) > 2 else float("nan")
    return float(middle[0] - middle[1]), error


def finalists(found: Iterable[Score], problem: str, steps: int) -> dict[str, list[str]]:
    """The settings of each method with the least product of ratios on the first observations.

    Settings that change nothing there count once: the iterations of a solver that needs one, for example.
    """
    products: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(lambda: 1.0))
    for score in found:
        if (score.problem, score.steps) == (problem, steps) and score.seed < FIRST + SCREENED:
            products[score.name][score.setting] *= score.ratio
    best = {}
    for name, settings in products.items():
        different = {round(math.log(product), 2): setting for setting, product in reversed(settings.items())}
        best[name] = [different[product] for product in sorted(different)[:FINALISTS]]
    return best


def cells(found: Iterable[Score], problem: str) -> dict[tuple[str, int], Cell]:
    """The cell of each method and budget. Its setting has the least median of those with the most observations."""
    groups: dict[tuple[str, int], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for score in found:
        if score.problem == problem:
            groups[score.name, score.steps][score.setting][score.seed] = score.ratio
    best = {}
    for key, settings in groups.items():
        most = max(len(ratios) for ratios in settings.values())
        complete = [Cell(setting, ratios) for setting, ratios in settings.items() if len(ratios) == most]
        best[key] = min(complete, key=lambda cell: cell.median)
    return best
