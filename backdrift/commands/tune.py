"""Fit a solver to a trained model, for a given number of evaluations."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdrift.runs.configuration import build
from backdrift.runs.run import Run
from backdrift.solvers import TableSolver, Tuned, tune


def main(config: DictConfig) -> None:
    """Write the tuned solver as `<run>/conf/solver/tuned_<nfe>.yaml`, an option like any other."""
    for key, least in (("solver.nfe", 1), ("batch", 2), ("iterations", 0), ("reference_steps", 1)):
        if OmegaConf.select(config, key) < least:
            raise ValueError(f"{key}={OmegaConf.select(config, key)}: expected at least {least}")
    run = Run.open(config.run, config.trust)
    start = None
    if config.solver.start is not None:
        start = build(config.solver, "start") if OmegaConf.is_dict(config.solver.start) else config.solver.start
        if not isinstance(start, TableSolver):
            raise ValueError(f"solver.start={start}: expected the keys of a solver with fixed steps, with its _target_")
    tuned = tune(
        run.gaussian_model(config.weights),
        start,
        config.solver.nfe,
        shape=run.card.units.shape,
        weights=config.solver.weights,
        batch=config.batch,
        iterations=config.iterations,
        reference_steps=config.reference_steps,
        seed=config.seed,
    )
    path = _write(tuned, run.path / "conf" / "solver")
    folder = run.path / "conf"
    command = shlex.join(["backdrift", "sample", f"run={run.path}", "--config-dir", str(folder), f"solver={path.stem}"])
    print(f"{tuned}\n{path}\n{command}")


def _write(tuned: Tuned, folder: Path) -> Path:
    """Save a tuned solver under a name that is not taken, with what it cost as a comment. The file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, number = f"tuned_{tuned.nfe}", 1
    while (path := folder / f"{stem}{f'_{number}' if number > 1 else ''}.yaml").exists():
        number += 1
    fields: dict[str, Any] = {"_target_": f"backdrift.solvers.{type(tuned.solver).__name__}"}
    fields |= {field.name: getattr(tuned.solver, field.name) for field in dataclasses.fields(tuned.solver)}
    fields |= {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}
    how = f"batch {tuned.batch}, {tuned.iterations} iterations, seed {tuned.seed}"
    header = "".join(f"# {line}\n" for line in (*str(tuned).split("; "), how))
    path.write_text(header + OmegaConf.to_yaml(OmegaConf.create(fields)))
    return path
