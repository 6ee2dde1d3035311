"""What a restoration found, as numbers, sentences, tables, an archive and a picture."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.results import ORIGIN
from backdrift.data.units import Units
from backdrift.evaluation.figures.restoration import hidden_in_grey, restoration, stretched
from backdrift.evaluation.restoration import Problem, Weighted, in_data_units
from backdrift.evaluation.restoration_checks import DOUBTFUL, ChiSquared, Coverage, coverages, root_mean_square
from backdrift.evaluation.restoration_noise import PoissonNoise
from backdrift.runs.output import OutputFolder

SHOWN = 4
"""Samples of each posterior in the picture."""

FEW = 20
"""An effective sample size below this is too small for means and intervals."""


@dataclass(frozen=True)
class Restoration:
    """Posterior samples of a problem and what they say.

    Attributes:
        problem: what was measured.
        draws: posterior samples w, `[n, S, ...]`, in the data's own units and float64. Of discrete data they are
            dequantised, see `Problem`.
        mean, std: of each posterior, `[n, ...]`; by the samples, or by the weights of particles.
        chi_squared: of the residual of the first sample of each posterior. A draw of the exact posterior has a residual
            that is distributed as the noise.
        coverage: of credible intervals of all components; empty where the truth is not known.
        coverage_hidden: of the components that are not seen, where the operator is a mask.
        error: of the mean, the root of its mean square, in the data's units; None where the truth is not known.
        weighted: of particles, or None.
    """

    problem: Problem
    draws: Tensor
    mean: Tensor
    std: Tensor
    chi_squared: ChiSquared
    coverage: list[Coverage]
    coverage_hidden: list[Coverage]
    error: float | None
    weighted: Weighted | None

    @classmethod
    def of(cls, problem: Problem, x: Tensor, weighted: Weighted | None = None) -> Restoration:
        """What samples x `[n, S, ...]` in the model's units say."""
        n, number = x.shape[:2]
        draws = in_data_units(problem.units, x.flatten(0, 1)).reshape(n, number, *x.shape[2:])
        mean = draws.mean(1) if weighted is None else weighted.mean
        std = draws.std(1) if weighted is None else weighted.std
        residual = problem.noise.test(problem.observation, problem.operator(draws[:, 0]))
        truth, hidden = problem.truth, problem.hidden
        every, unseen, error = [], [], None
        if truth is not None:
            error = root_mean_square(mean - truth)
            every = coverages(draws, truth)
            unseen = coverages(draws, truth, hidden) if hidden is not None and bool(hidden.any()) else []
        return cls(problem, draws, mean, std, residual, every, unseen, error, weighted)

    def verdict(self) -> str:
        """Whether the results can be trusted, in a sentence or a few."""
        found = [self._of_residual()]
        judged = self.coverage_hidden or self.coverage
        if judged:
            found.append(
                _of_coverage(judged[-1], "components that are not seen" if self.coverage_hidden else "components")
            )
        else:
            found.append("The truth is not known, so that nothing can be said of the coverage of the intervals.")
        if self.strays:
            found.append(
                f"{self.strays} of {self.draws.shape[0] * self.draws.shape[1]} samples lie far outside the range of "
                "the data; take more solver steps or another guide."
            )
        if self.weighted is not None and float(self.weighted.effective_sample_size.min()) < FEW:
            least = float(self.weighted.effective_sample_size.min())
            found.append(f"Too few particles count: the smallest effective sample size is {least:.1f}; take more.")
        return " ".join(found)

    @property
    def strays(self) -> int:
        """Samples of pictures with a component that is farther outside the range of the data than the range is wide."""
        units = self.problem.units
        if not units.is_picture:
            return 0
        outside = (self.draws - 0.5 * (units.low + units.high)).abs() > 1.5 * (units.high - units.low)
        return int(outside.flatten(2).any(2).sum())

    def _of_residual(self) -> str:
        chi = self.chi_squared
        agree = "agree" if chi.p_value >= DOUBTFUL else "do not agree"
        beside = f" for {chi.degrees} degrees of freedom"
        if isinstance(self.problem.noise, PoissonNoise):
            beside = f", where {chi.expected:.4g} ± {chi.standard_deviation:.2g} is expected of the counts"
        return (
            f"The residuals {agree} with the noise: chi-squared is {chi.value:.4g}{beside} "
            f"(p = {chi.p_value:.2g}).{self._advice}"
        )

    @property
    def _advice(self) -> str:
        """What helps against residuals that are too large."""
        chi = self.chi_squared
        if chi.p_value >= DOUBTFUL or chi.value < chi.expected or self.weighted is not None:
            return ""
        return (
            " A guide that approximates leaves such an excess with a deterministic solver at any number of steps, also "
            "where the network is exact; solver=ancestral solver.grid=angle solver.steps=100 may remove a part of it."
        )

    def numbers(self) -> dict[str, Any]:
        """All that was found, as JSON holds it."""
        weighted = (
            None
            if self.weighted is None
            else {
                name: [_finite(one) for one in getattr(self.weighted, name).tolist()]
                for name in ("log_evidence", "standard_error", "discretisation", "effective_sample_size")
            }
        )
        return {
            "verdict": self.verdict(),
            "observations": len(self.draws),
            "samples": self.draws.shape[1],
            "strays": self.strays,
            "components_seen": self.problem.size,
            "chi_squared": {name: _finite(value) for name, value in asdict(self.chi_squared).items()},
            "coverage": [_with_p(one) for one in self.coverage],
            "coverage_of_hidden_components": [_with_p(one) for one in self.coverage_hidden],
            "root_mean_square_error_of_mean": self.error,
            "root_mean_square_std": root_mean_square(self.std),
            "particles": weighted,
        }


def _of_coverage(one: Coverage, what: str) -> str:
    stated = f"{100 * one.nominal:.0f}% intervals hold {100 * one.share:.1f}"
    if one.samples < 2:
        return f"The {stated}% of the {what}; one sample does not tell with which error."
    agree = "as they should" if not one.p_value < DOUBTFUL else "which is not what they should"
    return f"The {stated} ± {100 * one.standard_error:.1f}% of the {what}, {agree} (p = {one.p_value:.2g})."


def _row(one: Coverage) -> str:
    """A row of the table of coverages."""
    if one.samples < 2:
        return f"| {100 * one.nominal:.1f}% | {100 * one.share:.1f}% (one sample has no standard error) | not known |"
    held = f"{100 * one.share:.1f} ± {100 * one.standard_error:.1f}%"
    return f"| {100 * one.nominal:.1f}% | {held} | {one.p_value:.2g} |"


def _with_p(one: Coverage) -> dict[str, Any]:
    return {name: _finite(value) for name, value in (asdict(one) | {"p_value": one.p_value}).items()}


def _finite(value: float) -> float | None:
    """JSON has no nan."""
    return value if math.isfinite(value) else None


def write(folder: OutputFolder, found: Restoration, card: DataCard, columns: Sequence[str]) -> None:
    """Write `restore.md`, `restore.html`, `restore.json`, `restoration.npz`, and a picture or tables.

    Args:
        folder: where to.
        found: the results.
        card: of the data set.
        columns: names of the columns of vectors.
    """
    with folder.new("restore.json") as file:
        text = json.dumps(found.numbers() | {"provenance": folder.provenance.to_dict()}, indent=2, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
    with folder.new("restoration.npz") as file:
        np.savez(file, **_arrays(found, folder.provenance.to_json()))  # type: ignore[arg-type]
    if card.units.is_picture:
        folder.save_figure("restoration.png", _figure(found, card.units))
    folder.save_report("restore", markdown(found, folder.provenance.markdown(), card.units.is_picture), "Restoration")
    if len(card.units.shape) == 1:
        _write_tables(folder, found, columns)


def markdown(found: Restoration, provenance: str, has_picture: bool = False) -> str:
    """The summary: a verdict, the numbers with their errors, the picture, and where they come from."""
    problem, lines = found.problem, ["# Restoration", "", found.verdict(), ""]
    lines += [f"- observations: {len(found.draws)}, of {problem.size} components each"]
    lines += [f"- samples of each posterior: {found.draws.shape[1]}"]
    lines += [f"- standard deviation of the posteriors, root of the mean square: {root_mean_square(found.std):.4g}"]
    if found.error is not None:
        lines += [f"- error of the posterior mean, root of the mean square: {found.error:.4g}"]
    if problem.units.levels is not None:
        lines += ["- units: levels; the level v is the interval from v - 1/2 to v + 1/2, also in the samples"]
    for title, rows in (("all components", found.coverage), ("components that are not seen", found.coverage_hidden)):
        if rows:
            lines += ["", f"| intervals, {title} | hold the truth | p |", "| --- | --- | --- |"]
            lines += [_row(one) for one in rows]
    if found.weighted is not None:
        parts = found.weighted
        lines += [
            "",
            "| observation | log p(y), nats | its change from half the steps, nats | effective sample size |",
            "| --- | --- | --- | --- |",
        ]
        for k in range(len(parts.log_evidence)):
            evidence, error = float(parts.log_evidence[k]), float(parts.standard_error[k])
            steps = float(parts.discretisation[k])
            shown = "not measured" if math.isnan(steps) else f"{steps:.3f}"
            lines.append(
                f"| {k} | {evidence:.3f} ± {error:.3f} | {shown} | {float(parts.effective_sample_size[k]):.1f} |"
            )
    if has_picture:
        lines += ["", "![restored pictures](restoration.png)"]
    return "\n".join([*lines, "", "## Provenance", "", provenance, ""])


def _arrays(found: Restoration, provenance: str) -> dict[str, np.ndarray]:
    arrays: dict[str, Tensor] = {
        "observation": found.problem.observation,
        "noise": found.problem.noise.recorded(),
        "samples": found.draws,
        "mean": found.mean,
        "std": found.std,
        "chi_squared": torch.stack([found.problem.chi_squared(x) for x in found.draws.unbind(1)], 1),
    }
    if found.problem.truth is not None:
        arrays["truth"] = found.problem.truth
    if found.weighted is not None:
        for name in ("log_evidence", "standard_error", "discretisation", "effective_sample_size"):
            arrays[name] = getattr(found.weighted, name)
    return {name: value.numpy() for name, value in arrays.items()} | {ORIGIN: np.array(provenance)}


def _figure(found: Restoration, units: Units) -> Any:
    problem = found.problem
    shown = min(SHOWN, found.draws.shape[1])
    if problem.hidden is not None:
        seen = hidden_in_grey(_brightness(units, problem.operator.adjoint(problem.observation)), problem.hidden)
        title = "seen"
    elif tuple(problem.observation.shape[1:]) == units.shape:
        seen, title = _brightness(units, problem.observation), "seen"
    else:
        seen, title = stretched(problem.operator.adjoint(problem.observation)), "seen, A^T y"
    # Values within a range have at most half of it as their deviation. A stray sample must not darken the others.
    largest = min(float(found.std.max()), 0.5 * (units.high - units.low))
    parts = [
        (title, seen),
        ("mean", _brightness(units, found.mean)),
        (f"std, 0 to {largest:.3g}", (found.std / max(largest, 1e-300)).clamp(max=1)),
        ("samples", _brightness(units, found.draws[:, :shown].flatten(0, 1))),
    ]
    if problem.truth is not None:
        parts.insert(0, ("truth", _brightness(units, problem.truth)))
    return restoration(parts, [shown if name == "samples" else 1 for name, _ in parts])


def _brightness(units: Units, w: Tensor) -> Tensor:
    """w `[n, channels, height, width]` between black, 0, and white, 1."""
    return ((w - units.low) / (units.high - units.low)).clamp(0, 1)


def _write_tables(folder: OutputFolder, found: Restoration, columns: Sequence[str]) -> None:
    """`samples.csv` with a row for each sample, and `summary.csv` with one for each component of an observation."""
    comment = folder.provenance.comment()
    with folder.new("samples.csv") as file, file.open("w", newline="", encoding="utf-8") as opened:
        opened.write(comment)
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["observation", "sample", *columns])
        for k, draws in enumerate(found.draws.tolist()):
            writer.writerows([k, s, *row] for s, row in enumerate(draws))
    truth = found.problem.truth
    with folder.new("summary.csv") as file, file.open("w", newline="", encoding="utf-8") as opened:
        opened.write(comment)
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["observation", "column", "mean", "std", *([] if truth is None else ["truth"])])
        for k in range(len(found.mean)):
            for j, name in enumerate(columns):
                row = [k, name, float(found.mean[k, j]), float(found.std[k, j])]
                writer.writerow(row if truth is None else [*row, float(truth[k, j])])
