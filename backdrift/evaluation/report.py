"""The report of a run: pictures, solvers compared, the likelihood of the test set, checks of the score."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import torch
from omegaconf import OmegaConf

from backdrift.data import Data
from backdrift.data.views import readable_data
from backdrift.evaluation import agreement, figures, score_checks, solver_comparison, verdicts
from backdrift.evaluation.agreement import Answer
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.pictures import draw_pictures, held_out_loss
from backdrift.evaluation.report_classes import ClassNumbers, has_classes, report_classes
from backdrift.evaluation.report_conditions import ConditionNumbers, has_conditions, report_conditions
from backdrift.evaluation.report_numbers import report_json
from backdrift.evaluation.report_quality import QualityNumbers, has_labels, report_quality
from backdrift.evaluation.scoring import Scores, score
from backdrift.evaluation.solver_comparison import Comparison
from backdrift.evaluation.workload import affordable
from backdrift.runs.configuration import build
from backdrift.runs.output import OutputFolder, renewed_results
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.runs.trained_model import TrainedModel
from backdrift.runs.unfinished import Unfinished
from backdrift.solvers.model import Denoises, place_of


def write(run: Run, device: torch.device | str = "cpu") -> None:
    """Write `report.md`, the same as one page `report.html`, its numbers as `report.json`, and its pictures.

    The pictures are `samples.png`, `trajectory.png`, `loss.png`, `likelihood.png` and `extremes.png`, and those of
    `report_classes` for a class-conditional model. All files are renamed into place once the report is whole. After an
    interruption `backdrift report` goes on.

    Args:
        run: the run.
        device: where the model is evaluated.

    Raises:
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    began = time.perf_counter()
    data, model = run.data(), run.model(device=device)
    solver = build(run.config, "solver")
    provenance = Provenance.now(run, solver, run.config.likelihood.get("seed", 0), "ema")
    kept = Unfinished.of(run, "report", provenance, run.config, model)
    with kept.interruptible(again=f"backdrift report run={run.path}"), renewed_results(run, provenance) as folder:
        print(f"report: samples by {solver}", flush=True)
        in_words = draw_pictures(folder, run, model, data, solver)
        floor, table, compared = compare_solvers(model, data, kept)
        scores = score_test_set(folder, run, model, data, kept)
        answers: list[Answer] = []
        parts = [
            f"# {run.config.name}",
            training_section(run, model, data),
            f"## Samples\n\n{in_words}\n\nThe first picture shows samples by `{solver}`, and samples of the test set. "
            "The second picture shows samples on their way from noise to data.\n\n"
            "![generated and real samples](samples.png)\n\n![from noise to data](trajectory.png)",
            compared,
            f"## Likelihood\n\n{verdicts.of_likelihood(scores, data)}\n\nTest set: {scores}.\n\n"
            "![histogram](likelihood.png)\n\n![most and least likely](extremes.png)",
        ]
        if model.sde.has_denoiser:
            answers, agreed = compare_methods(model, data, scores)
            parts.append(agreed)
        classes: ClassNumbers | None = None
        if has_classes(model, data):
            of_classes, classes = report_classes(folder, model, data, solver, kept)
            parts.append(verdicts.insert(of_classes, verdicts.of_classes(classes)))
        conditions: ConditionNumbers | None = None
        if has_conditions(model, data):
            likelihood: dict[str, Any] = OmegaConf.to_container(run.config.likelihood)  # type: ignore[assignment]
            withheld = run.config.train.get("label_dropout", 0.0)
            of_conditions, conditions = report_conditions(model, data, likelihood, withheld, kept)
            parts.append(of_conditions)
        quality: dict[str, QualityNumbers] | None = None
        if has_labels(data):
            of_quality, quality = report_quality(model, data, solver, kept)
            parts.append(of_quality)
        parts += [check_score(model, data), versions_section(run), f"## This report\n\n{provenance.markdown()}"]
        parts.append(f"The report took {time.perf_counter() - began:.0f} s.")
        with folder.new("report.json") as file:
            numbers = report_json(provenance, floor, table, scores, answers, classes, quality, conditions)
            file.write_text(numbers, encoding="utf-8")
        folder.save_report("report", "\n\n".join(parts) + "\n", run.config.name)
    kept.discard()


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
        samples = run.config.train.batch * run.config.train.get("accumulate", 1)  # older configs do not have it
        lines.append(
            f"- training: {step} steps of {samples} samples in {seconds:.0f} s, "
            f"{step / max(seconds, 1e-9):.1f} steps/s, last loss {rows[-1]['loss']:.4g}"
        )
        loss = held_out_loss(run)
        lines = [verdicts.of_training(rows[-1]["loss"], None if loss is None else loss[1]), "", *lines]
    return "\n".join(["## Training", "", *lines, *(["", "![training loss](loss.png)"] if rows else [])])


def compare_solvers(
    model: TrainedModel, data: Data, kept: Unfinished
) -> tuple[Comparison, dict[tuple[str, int], Comparison], str]:
    """The distances of `solver_comparison.compare`, and the section on them."""
    solvers, budgets = solver_comparison.solvers_for(model), solver_comparison.BUDGETS
    affords = affordable(model, data.shape, len(solvers) * sum(budgets))
    n = min(affords, solver_comparison.COMPARED, len(data.test), len(data.train))
    print(f"report: {len(solvers)} solvers at {', '.join(map(str, budgets))} evaluations, {n} samples each", flush=True)
    with Progress("report: solvers", n * len(solvers) * sum(budgets), "evaluation") as progress:
        work = Batchwise(progress, kept, stages=True)
        floor, table = solver_comparison.compare(model, data, n, solvers, work=work)
    found = solver_comparison.section(data, n, floor, table)
    return floor, table, verdicts.insert(found, verdicts.of_solvers(floor, table))


def score_test_set(folder: OutputFolder, run: Run, model: TrainedModel, data: Data, kept: Unfinished) -> Scores:
    """Log-likelihoods of the first test samples, as `likelihood` in the run's config says.

    It also writes `likelihood.png`, and `extremes.png` with the most and the least likely samples.
    """
    settings: dict[str, Any] = OmegaConf.to_container(run.config.likelihood)  # type: ignore[assignment]
    # rk4 and the estimate of its error take 6 evaluations in a step; one with its derivative costs about five plain
    # ones. A process with velocities is scored once for each draw of the velocity.
    draws = settings.get("draws", 8) if model.sde.has_velocity else 1
    values = data.test[: affordable(model, data.shape, 30 * draws * settings.get("steps", 16))]
    print(f"report: log-likelihood of {len(values)} test samples", flush=True)
    with Progress("report: likelihood", len(values)) as progress:
        scores = score(model, data.units, values, work=Batchwise(progress, kept, stages=True), **settings)
    folder.save_figure("likelihood.png", figures.likelihood_histogram({"test set": scores.values}, scores.unit))
    most_is, shown = "high" if data.levels is None else "low", readable_data(data.units, values)
    drawn = figures.most_and_least_likely(shown, scores.values, scores.unit, most_is, columns=data.columns)
    folder.save_figure("extremes.png", drawn)
    return scores


def compare_methods(model: TrainedModel, data: Data, scores: Scores) -> tuple[list[Answer], str]:
    """What three methods give for the log-density of the same samples, for a tenth of the work, and the section."""
    n = min(len(scores.log_prob), 100, affordable(model, data.shape, agreement.evaluations(), share=0.1))
    print(f"report: three methods on {n} test samples", flush=True)
    values = data.test[: len(scores.log_prob)]
    answers = agreement.compare(cast(Denoises, model), data, values, scores, n=n)
    return answers, verdicts.insert(agreement.section(answers, scores, n), verdicts.of_methods(answers, scores.unit))


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
    try:
        versions = json.loads(file.read_text())
    except (ValueError, RecursionError):
        versions = None
    if not isinstance(versions, dict) or not isinstance(versions.get("packages", {}), dict):
        return "## Versions\n\nThe file `versions.json` of the run folder is damaged."
    packages = ", ".join(f"{name} {version}" for name, version in versions.get("packages", {}).items())
    threads = "1 thread" if versions.get("threads") == 1 else f"{versions.get('threads')} threads"
    git = versions.get("git")
    return (
        f"## Versions\n\nThe run was started by `{versions.get('command')}`. It ran with Python "
        f"{versions.get('python')} on {versions.get('system')}, {threads}; {packages}{f'; git {git}' if git else ''}."
    )
