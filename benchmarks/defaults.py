"""The fitted numbers behind the defaults: what each was fitted on, and how the error changes around it.

    python benchmarks/defaults.py                # every group: results/defaults.{md,json}, about 25 minutes of one core
    python benchmarks/defaults.py grid clock     # these groups only; the results of the others are kept
    python benchmarks/defaults.py --quick        # few instances and the nearest values, no network, nothing written

Each number is moved alone, with the others as they are in the code. Two errors are measured:

- **Samplers**: the distance of samples to the end of the exact flow from the same noise (`problems.exact_flow`), of
  the default `Adams()` unless another solver is named. The objective is the mean, over instances and numbers of
  evaluations, of the logarithm of the median over samples; each problem counts the same.
- **Likelihoods**: the error of log p in bits/dim, from Kutta's method along the flow's own grid and exact divergences
  at the nodes of the flow's own quadrature. On mixtures the truth and the divergence are closed forms. On a U-Net
  that this script trains on digits the truth is the same with 128 steps and 128 divergences. The objective is the mean
  of the logarithm of the mean absolute error.

A ratio is the exponential of a difference of objectives: 1.05 is an error 5% above that of the shipped value, as a
geometric mean. Its standard error is taken over instances, which have the same samples at every value. It is left out
where a problem has one instance.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from accuracy import BUDGETS
from fitted_number import Number, page, record, scan, table, verdict
from fitting import Errors, Training
from problems import SDE

from backdrift.solvers import Adams, RungeKutta
from backdrift.solvers.flows import angle_flow
from backdrift.solvers.tables import adams, grid, multistep, prediction, runge_kutta

RESULTS = Path(__file__).parent / "results"


def constant(module: ModuleType, name: str) -> Callable[[Any], AbstractContextManager[Any]]:
    """A constant that its module reads each time."""
    return lambda value: patch.object(module, name, value)


@contextmanager
def angle(**numbers: float) -> Iterator[None]:
    """The grid "angle" with another centre or power."""
    with patch.dict(grid.GRIDS, {"angle": functools.partial(grid.angle_grid, **numbers)}):
        yield


@contextmanager
def structure(fine: float) -> Iterator[None]:
    """The coordinates "rectified" of Runge-Kutta methods with another c/d."""
    rows = functools.partial(runge_kutta.runge_kutta_rows, fine=fine)
    with patch.object(runge_kutta, "runge_kutta_rows", rows):
        yield


def history(entry: int, threshold: bool) -> Callable[[Any], AbstractContextManager[Any]]:
    """The table of histories with another entry: its threshold, or its numbers of values."""

    def changed(value: Any) -> AbstractContextManager[Any]:
        table = list(adams.HISTORY)
        table[entry] = (value, *table[entry][1:]) if threshold else (table[entry][0], *value)
        return patch.object(adams, "HISTORY", tuple(table))

    return changed


def of_adams(*budgets: int) -> Callable[[Training], Errors]:
    return lambda training: training.sampler_errors(lambda nfe: Adams(steps=nfe), budgets)


def of_runge_kutta(*budgets: int) -> Callable[[Training], Errors]:
    solver = RungeKutta(order=4, predict="rectified")
    return lambda training: training.sampler_errors(lambda nfe: solver.with_budget(nfe, SDE), budgets)


def of_flow(*runs: tuple[int, tuple[int, ...]]) -> Callable[[Training], Errors]:
    return lambda training: training.flow_errors(runs)


def numbers() -> list[Number]:
    """Every fitted number, with its value as the code has it now."""
    every, path = of_adams(*BUDGETS), of_flow(*((steps, (64,)) for steps in (16, 20, 24, 28)))
    all_of_them = f"`Adams()` at {', '.join(map(str, BUDGETS))} evaluations"
    kutta = "Kutta's method in 16, 20, 24 and 28 steps, 64 divergences"
    return [
        Number("GRID_CENTRE", "grid", grid.GRID_CENTRE, (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6),
               lambda v: angle(centre=v), every, grid, all_of_them),
        Number("GRID_POWER", "grid", grid.GRID_POWER, (0.3, 0.35, 0.4, 0.425, 0.45, 0.475, 0.5, 0.55),
               lambda v: angle(power=v), every, grid, all_of_them),
        Number("REACH_POWER", "reach", grid.REACH_POWER, (1.1, 1.2, 1.27, 1.4, 1.5),
               constant(grid, "REACH_POWER"), every, grid, all_of_them),
        Number("REACH_SCALE", "reach", grid.REACH_SCALE, (8.0, 11.0, 13.0, 16.0, 20.0, 25.0),
               constant(grid, "REACH_SCALE"), of_adams(50, 70, 100), grid,
               "`Adams()` at 50, 70, 100 evaluations"),
        Number("WIDE", "clock", multistep.WIDE, (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 7.0),
               constant(multistep, "WIDE"), every, multistep, all_of_them),
        Number("FINE_OVER_REACH", "structure", adams.FINE_OVER_REACH, (1.5, 2.0, 2.5, 3.0, 3.6, 4.5, 6.0),
               constant(adams, "FINE_OVER_REACH"), every, adams, all_of_them),
        *histories(),
        Number("FINE", "coordinates", prediction.FINE, (0.2, 0.25, 0.3, 0.36, 0.45, 0.6, 1.0, 2.0, 4.0),
               structure, of_runge_kutta(20, 32, 48, 64, 100), prediction,
               '`RungeKutta(order=4, predict="rectified")` at 20, 32, 48, 64, 100 evaluations'),
        Number("FLOW_CENTRE", "flow", angle_flow.FLOW_CENTRE, (0.3, 0.4, 0.5, 0.6, 0.75, 0.9),
               constant(angle_flow, "FLOW_CENTRE"), path, angle_flow, kutta),
        Number("FLOW_POWER", "flow", angle_flow.FLOW_POWER, (0.35, 0.4, 0.45, 0.5),
               constant(angle_flow, "FLOW_POWER"), path, angle_flow, kutta),
        Number("SMOOTH", "divergences", angle_flow.SMOOTH,
               ((0.4, 0.8), (0.5, 0.8), (0.6, 0.6), (0.6, 0.7), (0.6, 0.9), (0.6, 1.0), (0.75, 0.8), (1.0, 0.8),
                (1.0, 1.0)),
               constant(angle_flow, "SMOOTH"), of_flow((64, (16, 20, 24, 28, 32))), angle_flow,
               "16, 20, 24, 28 and 32 divergences, Kutta's method in 64 steps"),
    ]  # fmt: skip


def histories() -> Iterator[Number]:
    """Each entry of `HISTORY`, and each threshold between two of them."""
    entries: list[tuple[str, tuple[int, ...], tuple[Any, ...]]] = [
        ("below 14 steps", (5, 6, 8, 10, 12), ((2, 0), (2, 2), (2.5, 0), (2.5, 3), (3, 2), (3, 3))),
        ("from 14 steps", (15, 18, 20), ((2.5, 2), (3, 3), (3, 4), (3.5, 3), (3.5, 5), (4, 4), (4.5, 5))),
        ("from 22 steps", (25, 35, 50), ((3.5, 4), (4, 4), (4, 5), (4.5, 4), (5, 5))),
        ("from 60 steps", (70, 100), ((4, 4), (4, 5), (4.5, 5), (5, 4))),
    ]
    for place, (words, budgets, others) in enumerate(entries):
        yield Number(
            f"HISTORY {words}", "history", adams.HISTORY[place][1:], others, history(place, threshold=False),
            of_adams(*budgets), adams, f"`Adams()` at {', '.join(map(str, budgets))} evaluations",
        )  # fmt: skip
    thresholds: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((10, 11, 12, 13, 14, 15, 16), (10, 12, 16, 17)),
        ((18, 19, 20, 21, 22, 24, 26), (18, 20, 24, 27)),
        ((40, 48, 56, 64, 72, 80), (40, 50, 75, 90)),
    ]
    for place, (word, (budgets, others)) in enumerate(zip(("first", "second", "third"), thresholds, strict=True)):
        shipped = adams.HISTORY[place][0]
        yield Number(
            f"HISTORY {word} threshold", "history", shipped, others, history(place, threshold=True),
            of_adams(*budgets), adams, f"`Adams()` at {', '.join(map(str, budgets))} evaluations",
        )  # fmt: skip


def main() -> None:
    every = numbers()
    groups = list(dict.fromkeys(number.group for number in every))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"by default all: {', '.join(groups)}")
    parser.add_argument("--quick", action="store_true", help="few instances, the nearest values, nothing written")
    parser.add_argument("--samples", type=int, default=48, help="of each instance")
    parser.add_argument("--network", type=int, default=1600, help="training steps of the U-Net; 0 leaves it out")
    given = parser.parse_args()
    if unknown := set(given.groups) - set(groups):
        parser.error(f"group: expected one of {', '.join(groups)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    training = Training(samples=given.samples, network=given.network)
    if given.quick:
        training = Training(modes=3, decades=1, digits=1, samples=16, network=0, every=2)
    path = RESULTS / "defaults.json"
    results = json.loads(path.read_text()) if path.exists() else {"numbers": {}}
    results["made_with"] = f"torch {torch.__version__}, Python {platform.python_version()}"
    for number in every:
        if given.groups and number.group not in given.groups:
            continue
        began = time.process_time()
        rows = scan(number, training, nearest=given.quick)
        found = f"{table(rows, number.shipped)}\n{verdict(rows, number.shipped)}"
        print(f"\n{number.name}: {time.process_time() - began:.0f} s of processor time\n{found}", flush=True)
        if not given.quick:
            results["numbers"][number.name] = record(number, rows, training)
            known = {n.name: results["numbers"][n.name] for n in every if n.name in results["numbers"]}
            results["numbers"] = known  # in the order of the code
            path.write_text(json.dumps(results, indent=1) + "\n")
            (RESULTS / "defaults.md").write_text(page(results))


if __name__ == "__main__":
    main()
