"""Fit a solver to a trained model, for a given number of evaluations."""

from __future__ import annotations

import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from backdrift.data.condition_choice import FileCondition, NoCondition
from backdrift.evaluation.conditioning import EVERY, conditioned, conditioned_on_file
from backdrift.evaluation.scored_condition import in_a_name, require_classes, said
from backdrift.runs.atomic import write_text
from backdrift.runs.configuration import build
from backdrift.runs.device import device_named
from backdrift.runs.naming import numbered
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.solvers import Denoises, NonStationary, TableSolver, Tuned, tune
from backdrift.solvers.model import select

Solvers = TableSolver | NonStationary


def main(config: DictConfig) -> None:
    """Write the tuned solver as `<run>/conf/solver/tuned_<nfe>.yaml`, an option like any other.

    With `label` and `guidance` it is fitted to the model given a class, or to all classes in turn, and guided. With
    `condition=file` it is fitted to the model given the vectors or pictures of a file in turn. The name of the solver
    then says so.

    After an interruption the best solver so far is in `tuned_<nfe>_unfinished.yaml`.

    Raises:
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    device, run = device_named(config.device), Run.open(config.run, config.trust)
    start = _start(config)
    begins = "fitted from the best of the Adams family" if start is None else f"fitted from {start}"
    provenance = Provenance.now(
        run, begins, config.seed, config.weights, said(config.label, config.guidance, config.condition)
    )
    folder = run.path / "conf" / "solver"
    tuned = _tune(config, run, device, start, folder, provenance)
    how = f"batch {tuned.batch}, {tuned.iterations} iterations, seed {tuned.seed}"
    header = "".join(f"# {line}\n" for line in (*str(tuned).split("; "), how))
    path = _write(tuned.solver, folder, _stem(config), header + provenance.comment())
    own = str(folder.parent)
    guidance = f"guidance={config.guidance:g}"
    given: tuple[str, ...] = () if config.label is None else (f"label={config.label}", guidance)
    if "path" in config.condition:
        given = ("condition=file", f"condition.path={config.condition.path}", guidance)
    command = shlex.join(["backdrift", "sample", f"run={run.path}", "--config-dir", own, f"solver={path.stem}", *given])
    print(f"{tuned}\n{path}\n{command}")


def _stem(config: DictConfig) -> str:
    """The name of the solver: its evaluations, and the class and the guidance where there are any."""
    return f"tuned_{config.solver.nfe}{in_a_name(config.label, config.guidance, '_', config.condition)}"


def _model(config: DictConfig, run: Run, device: torch.device) -> Denoises:
    """The model for the three sets of trajectories that a fit takes: to fit on, to choose by and to measure on."""
    trained, trajectories = run.gaussian_model(config.weights, device), 3 * config.batch
    choice = build(config, "condition")
    if isinstance(choice, FileCondition):
        if config.label is not None:
            raise ValueError(f"label={config.label}: expected null beside condition=file")
        given = conditioned_on_file(trained, run.card, choice, config.guidance, 1)
        return cast(Denoises, select(given.model, torch.arange(trajectories) % given.n))
    if not isinstance(choice, NoCondition):
        raise ValueError("condition: expected none or file, as for sample")
    if config.label != EVERY:
        model: Denoises = conditioned(trained, run.card, config.label, config.guidance, trajectories).model
        return model
    classes = require_classes(trained, EVERY)
    each = math.ceil(trajectories / classes)
    every = conditioned(trained, run.card, EVERY, config.guidance, each).model
    order = torch.arange(trajectories)
    return select(every, order % classes * each + order // classes)


def _start(config: DictConfig) -> TableSolver | None:
    """The solver to begin with, or None to try several.

    Raises:
        ValueError: if it is no solver with fixed steps.
    """
    given = config.solver.start
    if given is None:
        return None
    start = build(config.solver, "start") if OmegaConf.is_dict(given) else given
    if not isinstance(start, TableSolver):
        raise ValueError(f"solver.start={start}: expected the keys of a solver with fixed steps, with its _target_")
    return start


def _tune(
    config: DictConfig, run: Run, device: torch.device, start: TableSolver | None, folder: Path, provenance: Provenance
) -> Tuned:
    """Fit the solver. An interruption leaves the best one so far, and says where."""
    best: tuple[int, int, Solvers] | None = None
    with Progress("tune", 1, "iteration") as progress:

        def on_iteration(done: int, total: int, solver: Solvers) -> None:
            nonlocal best
            best = (done, total, solver)
            progress(done, total=total)

        try:
            return tune(
                _model(config, run, device),
                start,
                config.solver.nfe,
                shape=run.card.units.shape,
                weights=config.solver.weights,
                batch=config.batch,
                iterations=config.iterations,
                reference_steps=config.reference_steps,
                seed=config.seed,
                on_iteration=on_iteration,
            )
        except KeyboardInterrupt as interrupt:
            said = "interrupted before the first iteration; nothing is kept"
            if best is not None:
                done, total, solver = best
                header = f"# unfinished: the best solver after {done} of {total} iterations\n" + provenance.comment()
                path = _write(solver, folder, f"{_stem(config)}_unfinished", header)
                said = f"interrupted; the best solver after {done} of {total} iterations is kept in {path}"
            raise type(interrupt)(said) from interrupt


def _write(solver: Solvers, folder: Path, stem: str, header: str) -> Path:
    """Save a solver under a name that is not taken, below lines that begin with #. The file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (name.with_name(f"{name.name}.yaml") for name in numbered(folder / stem, "_"))
    path = next(path for path in names if not path.exists())
    fields: dict[str, Any] = {"_target_": f"backdrift.solvers.{type(solver).__name__}"}
    fields |= {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver)}
    fields |= {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}
    write_text(path, header + OmegaConf.to_yaml(OmegaConf.create(fields)))
    return path
