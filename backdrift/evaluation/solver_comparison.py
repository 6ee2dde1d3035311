"""Solvers compared by the distance of their samples to the test set, at equal numbers of network evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from backdrift.data import Data, Units
from backdrift.data.views import readable, readable_data
from backdrift.evaluation.batchwise import HERE, Batchwise
from backdrift.evaluation.metrics import Estimate, mmd, sliced_wasserstein
from backdrift.evaluation.sampling import draw
from backdrift.solvers import (
    DDIM,
    Adams,
    Ancestral,
    DPMSolverPP2M,
    EulerMaruyama,
    Heun,
    SymmetricSplitting,
    TableSolver,
)
from backdrift.solvers.model import ModelLike

Budgeted = TableSolver | SymmetricSplitting
"""Solvers that say how many steps a number of evaluations pays for."""

SOLVERS: tuple[Budgeted, ...] = (Adams(), DDIM(), DPMSolverPP2M(), Heun(), Ancestral(), EulerMaruyama())
"""What is compared under processes that have a denoiser."""

MATRIX_SOLVERS: tuple[Budgeted, ...] = (
    SymmetricSplitting(inner="euler", grid="quadratic"),
    SymmetricSplitting(inner="midpoint", grid="quadratic"),
)
"""What is compared under processes whose drift is a matrix."""

BUDGETS = (10, 20, 50)
"""Network evaluations for each sample."""

COMPARED = 48
"""Samples of each solver in a report, at most. They are about a third of the time that a report of digits takes."""

TESTED = 1000
"""How many test samples are compared with, at most."""


@dataclass(frozen=True)
class Comparison:
    """The distance of one set of samples to the test set.

    Attributes:
        mmd: the squared maximum mean discrepancy, or None if a sample is NaN or infinite.
        sliced: the sliced 2-Wasserstein distance, or None likewise.
    """

    mmd: Estimate | None
    sliced: Estimate | None


def solvers_for(model: ModelLike) -> tuple[Budgeted, ...]:
    """The solvers that suit the model's process."""
    return SOLVERS if model.sde.has_denoiser else MATRIX_SOLVERS


def compare(
    model: ModelLike,
    data: Data,
    n: int,
    solvers: tuple[Budgeted, ...] = SOLVERS,
    seed: int = 0,
    work: Batchwise = HERE,
) -> tuple[Comparison, dict[tuple[str, int], Comparison]]:
    """The distance to the test set of `n` training samples, and of `n` samples of every solver at every budget.

    All solvers start from the same noise. Pictures are rounded to the data's levels.

    Args:
        model: any model.
        data: the data set; at most its first `TESTED` test samples are compared with.
        n: number of samples in each set.
        solvers: what to compare.
        seed: of the starting noise, and of the choice of training samples.
        work: how the batches of samples are done. Its progress counts network evaluations.

    Returns:
        The distance of the training samples, and those of generated samples by (name of the solver, evaluations).
    """
    units, sde = data.units, cast(Any, model.sde)  # the solvers are those that suit it, see `solvers_for`
    test = comparable(units, readable_data(units, data.test[:TESTED]))
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed), device="cpu")[:n]
    floor = distances(comparable(units, readable_data(units, data.train[order])), test)
    table = {}
    for number, solver in enumerate(solvers):
        for nfe in BUDGETS:
            stage = f"solver{number}-{nfe}"
            x = draw(model, solver.with_budget(nfe, sde), data.shape, n, seed, work, stage=stage, weight=nfe)
            table[label(solver), nfe] = distances(comparable(units, readable(units, x)), test)
    return floor, table


def label(solver: Budgeted) -> str:
    """A solver's name, with its inner method where it has one."""
    return type(solver).__name__ + (f", {solver.inner}" if isinstance(solver, SymmetricSplitting) else "")


def comparable(units: Units, values: Tensor) -> Tensor:
    """Readable values in which every feature of vectors has the same weight."""
    return values if units.is_picture else units.standardised(values).float()


def distances(x: Tensor, test: Tensor) -> Comparison:
    """The distances of samples x to the test set, `[n, ...]` both. They are None if x is not finite."""
    if not bool(x.isfinite().all()):
        return Comparison(None, None)
    return Comparison(mmd(x, test), sliced_wasserstein(x, test))


def section(data: Data, n: int, floor: Comparison, table: dict[tuple[str, int], Comparison]) -> str:
    """The report's section on solvers: each distance by solver and budget, and that of the training set."""
    scale = 10 ** max(0, 1 - math.ceil(math.log10(max(floor.mmd.standard_error, 1e-12)))) if floor.mmd else 1
    m = f"first {TESTED}" if len(data.test) > TESTED else f"{len(data.test)}"
    units = "brightness from 0 to 1" if data.units.is_picture else "standard deviations of the data"
    budgets = f"{', '.join(map(str, BUDGETS[:-1]))} and {BUDGETS[-1]}"
    return "\n".join(
        [
            "## Solvers",
            "",
            f"Each solver made {n} samples with {budgets} network evaluations (NFE) for each sample. The tables give "
            f"their distance to the {m} samples of the test set. A perfect model would come as near as {n} samples of "
            "the training set, whose distance is in the last row. ± is a jackknife standard error. All solvers start "
            "from the same noise (seed 0).",
            "",
            f"Squared maximum mean discrepancy{f', times {scale:,}' if scale > 1 else ''}. The estimate is unbiased: "
            "it is near 0, and may be negative, for samples of the same distribution.",
            "",
            *_rows(floor, table, "mmd", scale),
            "",
            f"Sliced 2-Wasserstein distance, in {units}. It is above 0 for any two finite sets of samples.",
            "",
            *_rows(floor, table, "sliced"),
        ]
    )


def _rows(floor: Comparison, table: dict[tuple[str, int], Comparison], distance: str, factor: float = 1.0) -> list[str]:
    """A table of one distance, times a factor."""

    def shown(comparison: Comparison) -> str:
        value: Estimate | None = getattr(comparison, distance)
        if value is None:
            return "not finite"
        return str(Estimate(value.value * factor, value.standard_error * factor))

    names = list(dict.fromkeys(name for name, _ in table))
    return [
        "| solver | " + " | ".join(f"{nfe} NFE" for nfe in BUDGETS) + " |",
        "| --- |" + " --- |" * len(BUDGETS),
        *(f"| {name} | " + " | ".join(shown(table[name, nfe]) for nfe in BUDGETS) + " |" for name in names),
        f"| *training set* | {shown(floor)} |" + " |" * (len(BUDGETS) - 1),
    ]
