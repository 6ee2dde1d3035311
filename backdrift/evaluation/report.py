"""What a run tells about itself: pictures, a comparison of solvers, the test set's likelihood."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backdrift.data import Data
from backdrift.data.views import readable, readable_data
from backdrift.evaluation import agreement, figures, score_checks
from backdrift.evaluation.metrics import Estimate, mmd, sliced_wasserstein
from backdrift.evaluation.sampling import draw
from backdrift.evaluation.scoring import Scores, score
from backdrift.models import ConservativeDenoiser
from backdrift.runs.configuration import build
from backdrift.runs.run import Run
from backdrift.solvers import (
    DDIM,
    Adams,
    Ancestral,
    DPMSolverPP2M,
    EulerMaruyama,
    Heun,
    SymmetricSplitting,
    TableSolver,
    sample,
)
from backdrift.solvers.model import place_of, score_of

Budgeted = TableSolver | SymmetricSplitting
SOLVERS: tuple[Budgeted, ...] = (Adams(), DDIM(), DPMSolverPP2M(), Heun(), Ancestral(), EulerMaruyama())
MATRIX_SOLVERS: tuple[Budgeted, ...] = (
    SymmetricSplitting(inner="euler", grid="quadratic"),
    SymmetricSplitting(inner="midpoint", grid="quadratic"),
)
"""For processes that are linear with a matrix."""

BUDGETS = (10, 20, 50)
"""Network evaluations a sample."""

WORK = 8e12
"""Floating-point operations that comparing solvers, and scoring the test set, may each cost: under a minute on two
cores. A number of operations, not of seconds, so that a report does not depend on the machine."""


@dataclass(frozen=True)
class Comparison:
    """How far one set of samples is from the test set; None where a sample is NaN or infinite."""

    mmd: Estimate | None
    sliced: Estimate | None


def write(run: Run) -> None:
    """Write `samples.png`, `trajectory.png`, `loss.png` and `report.md` into the run's folder.

    The report's solvers are compared by their distance to the test set at equal numbers of network
    evaluations, beside the distance of as many training samples.
    """
    began = time.perf_counter()
    data, model = run.data(), run.model()
    solver = build(run.config, "solver")
    print(f"report: samples by {solver}", flush=True)
    draw_pictures(run, model, data, solver)
    gaussian = model.sde.has_denoiser
    solvers = SOLVERS if gaussian else MATRIX_SOLVERS
    n = min(affordable(model, data.shape, len(solvers) * sum(BUDGETS)), len(data.test), len(data.train))
    print(f"report: {len(solvers)} solvers at {', '.join(map(str, BUDGETS))} evaluations, {n} samples each", flush=True)
    floor, table = compare(model, data, n, solvers)
    scores = score_test_set(run, model, data)
    answers = [three_answers(model, data, scores)] if gaussian else []
    text = "\n\n".join(
        [
            f"# {run.config.name}",
            training(run, model, data),
            f"## Samples\n\nBy `{solver}`, beside the test set; below, from noise to data.\n\n"
            "![generated and real samples](samples.png)\n\n![from noise to data](trajectory.png)",
            solvers_section(data, n, floor, table),
            f"## Likelihood\n\nTest set: {scores}.\n\n"
            "![histogram](likelihood.png)\n\n![most and least likely](extremes.png)",
            *answers,
            check_score(model, data),
            versions_section(run),
            f"The report took {time.perf_counter() - began:.0f} s.",
        ]
    )
    # Renamed into place: a report that exists is whole.
    hidden = run.path / ".report.md"
    hidden.write_text(text + "\n", encoding="utf-8")
    hidden.replace(run.path / "report.md")


def draw_pictures(run: Run, model: Any, data: Data, solver: Any, n: int = 64) -> None:
    """`samples.png`, `trajectory.png` and `loss.png`."""
    n = n if data.units.is_picture else min(500, len(data.test))
    sde = model.sde
    path = sample(model, solver, (n, *sde.state_shape(data.shape)), seed=0, trajectory=True)
    real = readable_data(data.units, data.test[: max(n, 64)])
    figures.samples(readable(data.units, sde.position(path.x).cpu()), real).savefig(run.path / "samples.png")
    times, states = path.times.double(), torch.stack([sde.position(state) for state in path.states])
    alpha, sigma = sde.position_marginal(times)
    alpha = torch.where(times > 0, alpha, 1.0)
    ratio = torch.where(times > 0, sigma / alpha, 0.0)
    if data.units.is_picture:
        # Between pure noise and the end, the states where the noise is 8 to 0.05 times the data: there it happens.
        levels = data.std * torch.logspace(math.log10(8), math.log10(0.05), 8, dtype=torch.float64)
        nearest = (ratio[:-1].log() - levels.log()[:, None]).abs().argmin(1)
        chosen = sorted({0, *nearest.tolist(), len(times) - 1})
        times, states, alpha, ratio = times[chosen], states[chosen], alpha[chosen], ratio[chosen]
    # Each state at the spread of the data, whatever the process does to it: x_t d / sqrt(alpha^2 d^2 + sigma^2).
    scale = 1 / (alpha * torch.sqrt(1 + (ratio / data.std).square()))
    states = states * scale.to(states).reshape(-1, *(1,) * (states.ndim - 1))
    drawn = torch.stack([readable(data.units, state) for state in states])
    figures.trajectory(drawn, times.tolist(), real, ratio.tolist()).savefig(run.path / "trajectory.png")
    rows = [row for row in run.read_metrics() if "loss" in row]
    if rows:
        steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
        figures.loss_curve(steps, losses, window=10).savefig(run.path / "loss.png")


def affordable(model: Any, shape: tuple[int, ...], evaluations: int, work: float = WORK) -> int:
    """How many samples `work` pays for at `evaluations` of the network each, at least 64 and at most 1000."""
    x, gradient = torch.zeros(1, *model.sde.state_shape(shape)), isinstance(model, ConservativeDenoiser)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if gradient:  # the counter does not look inside one
            model.network(x, torch.zeros(1))
        else:
            score_of(model)(x, torch.tensor(model.sde.T / 2))
    operations = (3 if gradient else 1) * max(1, counter.get_total_flops())
    return int(min(1000, max(64, work / (evaluations * operations))))


def score_test_set(run: Run, model: Any, data: Data) -> Scores:
    """Log-likelihoods of the test set, or of as many of its first samples as `WORK` pays for, as
    `likelihood` in the run's config says; with `likelihood.png`, and `extremes.png` of the most and least likely."""
    settings: dict[str, Any] = OmegaConf.to_container(run.config.likelihood)  # type: ignore[assignment]
    # rk4 and the estimate of its error take 6 evaluations a step; one with its derivative costs about five plain ones.
    draws = settings.get("draws", 8) if model.sde.has_velocity else 1  # of the velocity
    values = data.test[: affordable(model, data.shape, 30 * draws * settings.get("steps", 16))]
    print(f"report: log-likelihood of {len(values)} test samples", flush=True)
    scores = score(model, data, values, **settings)
    figures.likelihood_histogram({"test set": scores.values}, scores.unit).savefig(run.path / "likelihood.png")
    most_is = "high" if data.levels is None else "low"
    shown = figures.most_and_least_likely(readable_data(data.units, values), scores.values, scores.unit, most_is)
    shown.savefig(run.path / "extremes.png")
    return scores


def three_answers(model: Any, data: Data, scores: Scores) -> str:
    """The section "Three answers agree", for a tenth of `WORK`."""
    n = min(len(scores.log_prob), 100, affordable(model, data.shape, agreement.evaluations(), WORK / 10))
    print(f"report: three answers on {n} test samples", flush=True)
    values = data.test[: len(scores.log_prob)]
    return agreement.section(agreement.compare(model, data, values, scores, n=n), scores, n)


def check_score(model: Any, data: Data) -> str:
    """The section "Score", for a tenth of `WORK`."""
    n = min(len(data.test), affordable(model, data.shape, score_checks.evaluations(data.units.dim), WORK / 10))
    print(f"report: score on {n} test samples", flush=True)
    x0 = data.to_model(data.test[:n], torch.Generator().manual_seed(0)).to(*place_of(model))
    return score_checks.section(model, x0)


def label(solver: Budgeted) -> str:
    """A solver's name, and which of its kind it is."""
    return type(solver).__name__ + (f", {solver.inner}" if isinstance(solver, SymmetricSplitting) else "")


def compare(
    model: Any, data: Data, n: int, solvers: tuple[Budgeted, ...] = SOLVERS, seed: int = 0
) -> tuple[Comparison, dict[tuple[str, int], Comparison]]:
    """The distance to the test set of `n` training samples, and of `n` samples of every solver at every budget.

    All solvers start from the same noise; pictures are rounded to the data's levels.

    Returns:
        The training set's distance, and those of the samples by (name of the solver, evaluations).
    """
    test = comparable(data, readable_data(data.units, data.test[:1000]))
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:n]
    floor = distances(comparable(data, readable_data(data.units, data.train[order])), test)
    table = {}
    for solver in solvers:
        for nfe in BUDGETS:
            x = draw(model, solver.with_budget(nfe, model.sde), data.shape, n, seed)
            table[label(solver), nfe] = distances(comparable(data, readable(data.units, x)), test)
    return floor, table


def comparable(data: Data, values: Tensor) -> Tensor:
    """Readable values with every feature of vectors given the same weight."""
    return values if data.units.is_picture else (values - data.units.shift.to(values)) / data.units.scale.to(values)


def distances(x: Tensor, test: Tensor) -> Comparison:
    """How far samples x are from the test set, `[n, ...]` both; nothing where x is not finite."""
    if not bool(x.isfinite().all()):
        return Comparison(None, None)
    return Comparison(mmd(x, test), sliced_wasserstein(x, test))


def training(run: Run, model: Any, data: Data) -> str:
    """The section on what was trained, on what, and for how long."""
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


def solvers_section(data: Data, n: int, floor: Comparison, table: dict[tuple[str, int], Comparison]) -> str:
    """The section on solvers: each distance by solver and budget, and the training set's, the floor."""
    names = list(dict.fromkeys(name for name, _ in table))
    scale = 10 ** max(0, 1 - math.ceil(math.log10(max(floor.mmd.standard_error, 1e-12)))) if floor.mmd else 1

    def shown(value: Estimate | None, factor: float = 1.0) -> str:
        if value is None:
            return "not finite"
        return str(Estimate(value.value * factor, value.standard_error * factor))

    def rows(key: str, factor: float = 1.0) -> list[str]:
        head = ["| solver | " + " | ".join(f"{nfe} NFE" for nfe in BUDGETS) + " |", "| --- |" + " --- |" * len(BUDGETS)]
        body = [
            f"| {name} | " + " | ".join(shown(getattr(table[name, nfe], key), factor) for nfe in BUDGETS) + " |"
            for name in names
        ]
        ends = f"| *training set* | {shown(getattr(floor, key), factor)} |" + " |" * (len(BUDGETS) - 1)
        return [*head, *body, ends]

    m = f"{'first 1000' if len(data.test) > 1000 else len(data.test)}"
    units = "brightness from 0 to 1" if data.units.is_picture else "standard deviations of the data"
    return "\n".join(
        [
            "## Solvers",
            "",
            f"Distance of {n} samples to the {m} of the test set after 10, 20 and 50 network evaluations (NFE), and of "
            f"{n} training samples: what a perfect model would show. ± is a jackknife standard error; all solvers "
            "start from the same noise (seed 0).",
            "",
            f"Squared maximum mean discrepancy{f', times {scale:,}' if scale > 1 else ''}: unbiased, about 0 or "
            "below for samples of the same distribution.",
            "",
            *rows("mmd", scale),
            "",
            f"Sliced 2-Wasserstein distance, in {units}: never 0 for finite samples.",
            "",
            *rows("sliced"),
        ]
    )


def versions_section(run: Run) -> str:
    """The section on what the run was made with."""
    file = run.path / "versions.json"
    if not file.exists():
        return "## Made with\n\nunknown versions"
    versions = json.loads(file.read_text())
    packages = ", ".join(f"{name} {version}" for name, version in versions.get("packages", {}).items())
    git = versions.get("git")
    return (
        f"## Made with\n\n`{versions.get('command')}`\n\nPython {versions.get('python')} on {versions.get('system')}, "
        f"{versions.get('threads')} threads; {packages}{f'; git {git}' if git else ''}."
    )
