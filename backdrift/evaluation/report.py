"""The report of a run: pictures, solvers compared, the likelihood of the test set, checks of the score."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import torch
from omegaconf import OmegaConf

from backdrift.data import Data
from backdrift.data.views import readable_data
from backdrift.evaluation import agreement, figures, score_checks, solver_comparison
from backdrift.evaluation.pictures import draw_pictures
from backdrift.evaluation.scoring import Scores, score
from backdrift.evaluation.workload import affordable
from backdrift.runs.configuration import build
from backdrift.runs.run import Run, TrainedModel
from backdrift.solvers.model import Denoises, place_of


def write(run: Run) -> None:
    """Write `report.md` and its pictures into the run's folder.

    The pictures are `samples.png`, `trajectory.png`, `loss.png`, `likelihood.png` and `extremes.png`. The report is
    renamed into place once it is whole.
    """
    began = time.perf_counter()
    data, model = run.data(), run.model()
    solver = build(run.config, "solver")
    print(f"report: samples by {solver}", flush=True)
    draw_pictures(run, model, data, solver)
    parts = [
        f"# {run.config.name}",
        training_section(run, model, data),
        f"## Samples\n\nLeft: samples by `{solver}`. Right: the test set. The second picture shows samples on their "
        "way from noise to data.\n\n![generated and real samples](samples.png)\n\n"
        "![from noise to data](trajectory.png)",
        compare_solvers(model, data),
    ]
    scores = score_test_set(run, model, data)
    parts.append(
        f"## Likelihood\n\nTest set: {scores}.\n\n"
        "![histogram](likelihood.png)\n\n![most and least likely](extremes.png)"
    )
    if model.sde.has_denoiser:
        parts.append(compare_methods(model, data, scores))
    parts += [check_score(model, data), versions_section(run)]
    parts.append(f"The report took {time.perf_counter() - began:.0f} s.")
    hidden = run.path / ".report.md"
    hidden.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    hidden.replace(run.path / "report.md")


def training_section(run: Run, model: TrainedModel, data: Data) -> str:
    """The section on what was trained, on which data, and for how long."""
    parameters = sum(value.numel() for value in model.network.parameters())
    lines = [
        f"- data: {data}",
        f"- process: `{model.sde}`",
        f"- network: {type(model.network).__name__}, {parameters / 1e6:.2f} M parameters",
    ]
    rows = [row for row in run.read_metrics() if "seconds" in row]
    if rows:
        step, seconds = rows[-1]["step"], rows[-1]["seconds"]
        lines.append(
            f"- training: {step} steps of {run.config.train.batch} samples in {seconds:.0f} s, "
            f"{step / max(seconds, 1e-9):.1f} steps/s, last loss {rows[-1]['loss']:.4g} (`loss.png`)"
        )
    return "\n".join(lines)


def compare_solvers(model: TrainedModel, data: Data) -> str:
    """The section on solvers."""
    solvers, budgets = solver_comparison.solvers_for(model), solver_comparison.BUDGETS
    n = min(affordable(model, data.shape, len(solvers) * sum(budgets)), len(data.test), len(data.train))
    print(f"report: {len(solvers)} solvers at {', '.join(map(str, budgets))} evaluations, {n} samples each", flush=True)
    return solver_comparison.section(data, n, *solver_comparison.compare(model, data, n, solvers))


def score_test_set(run: Run, model: TrainedModel, data: Data) -> Scores:
    """Log-likelihoods of the first test samples, as `likelihood` in the run's config says.

    It also writes `likelihood.png`, and `extremes.png` with the most and the least likely samples.
    """
    settings: dict[str, Any] = OmegaConf.to_container(run.config.likelihood)  # type: ignore[assignment]
    # rk4 and the estimate of its error take 6 evaluations in a step; one with its derivative costs about five plain
    # ones. A process with velocities is scored once for each draw of the velocity.
    draws = settings.get("draws", 8) if model.sde.has_velocity else 1
    values = data.test[: affordable(model, data.shape, 30 * draws * settings.get("steps", 16))]
    print(f"report: log-likelihood of {len(values)} test samples", flush=True)
    scores = score(model, data.units, values, **settings)
    figures.likelihood_histogram({"test set": scores.values}, scores.unit).savefig(run.path / "likelihood.png")
    most_is = "high" if data.levels is None else "low"
    shown = figures.most_and_least_likely(
        readable_data(data.units, values), scores.values, scores.unit, most_is, columns=data.columns
    )
    shown.savefig(run.path / "extremes.png")
    return scores


def compare_methods(model: TrainedModel, data: Data, scores: Scores) -> str:
    """The section in which three methods give the log-density of the same samples, for a tenth of the work."""
    n = min(len(scores.log_prob), 100, affordable(model, data.shape, agreement.evaluations(), share=0.1))
    print(f"report: three methods on {n} test samples", flush=True)
    values = data.test[: len(scores.log_prob)]
    return agreement.section(agreement.compare(cast(Denoises, model), data, values, scores, n=n), scores, n)


def check_score(model: TrainedModel, data: Data) -> str:
    """The section on what every true score obeys, for a tenth of the work."""
    n = min(len(data.test), affordable(model, data.shape, score_checks.evaluations(data.units.dim), share=0.1))
    print(f"report: score on {n} test samples", flush=True)
    x0 = data.to_model(data.test[:n], torch.Generator().manual_seed(0)).to(*place_of(model))
    return score_checks.section(model, x0)


def versions_section(run: Run) -> str:
    """The section on what the run was made with."""
    file = run.path / "versions.json"
    if not file.exists():
        return "## Versions\n\nThe run folder does not hold them."
    versions = json.loads(file.read_text())
    packages = ", ".join(f"{name} {version}" for name, version in versions.get("packages", {}).items())
    git = versions.get("git")
    return (
        f"## Versions\n\n`{versions.get('command')}`\n\nPython {versions.get('python')} on {versions.get('system')}, "
        f"{versions.get('threads')} threads; {packages}{f'; git {git}' if git else ''}."
    )
