"""Fit a solver to a trained model, for a given number of evaluations."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from backdrift.runs.atomic import write_text
from backdrift.runs.configuration import build
from backdrift.runs.device import device_named
from backdrift.runs.naming import numbered
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.solvers import NonStationary, TableSolver, Tuned, tune

Solvers = TableSolver | NonStationary


def main(config: DictConfig) -> None:
    """Write the tuned solver as `<run>/conf/solver/tuned_<nfe>.yaml`, an option like any other.

    After an interruption the best solver so far is in `tuned_<nfe>_unfinished.yaml`.

    Raises:
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    device, run = device_named(config.device), Run.open(config.run, config.trust)
    start = _start(config)
    begins = "fitted from the best of the Adams family" if start is None else f"fitted from {start}"
    provenance = Provenance.now(run, begins, config.seed, config.weights)
    folder = run.path / "conf" / "solver"
    tuned = _tune(config, run, device, start, folder, provenance)
    how = f"batch {tuned.batch}, {tuned.iterations} iterations, seed {tuned.seed}"
    header = "".join(f"# {line}\n" for line in (*str(tuned).split("; "), how))
    path = _write(tuned.solver, folder, f"tuned_{tuned.nfe}", header + provenance.comment())
    own = str(folder.parent)
    command = shlex.join(["backdrift", "sample", f"run={run.path}", "--config-dir", own, f"solver={path.stem}"])
    print(f"{tuned}\n{path}\n{command}")


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
                run.gaussian_model(config.weights, device),
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
                path = _write(solver, folder, f"tuned_{config.solver.nfe}_unfinished", header)
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
