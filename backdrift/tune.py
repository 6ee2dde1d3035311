"""Fit a solver to a trained model, for a given number of evaluations."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from pathlib import Path

    from solvers.tune import Tuned


def main(config: DictConfig) -> None:
    """Write the tuned solver as `<run>/conf/solver/tuned_<nfe>.yaml`, an option like any other."""
    from backdrift.configuration import build
    from backdrift.run import Run
    from solvers import tune

    run = Run.open(config.run)
    start = None if config.solver.start is None else build(config.solver, "start")
    tuned = tune(
        run.gaussian_model(config.weights).requires_grad_(False),
        start,
        config.solver.nfe,
        shape=run.data().shape,
        batch=config.batch,
        iterations=config.iterations,
        reference_steps=config.reference_steps,
        seed=config.seed,
    )
    path = write(tuned, run.path / "conf" / "solver")
    folder = run.path / "conf"
    print(f"{tuned}\n{path}\nbackdrift sample run={run.path} --config-dir {folder} solver={path.stem}")


def write(tuned: Tuned, folder: Path) -> Path:
    """Save a tuned solver with what it cost, under a name that is not taken."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, number = f"tuned_{tuned.nfe}", 1
    while (path := folder / f"{stem}{f'_{number}' if number > 1 else ''}.yaml").exists():
        number += 1
    fields: dict[str, Any] = {"_target_": f"solvers.{type(tuned.solver).__name__}"}
    fields |= {field.name: getattr(tuned.solver, field.name) for field in dataclasses.fields(tuned.solver)}
    fields |= {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}
    how = f"batch {tuned.batch}, {tuned.iterations} iterations, seed {tuned.seed}"
    header = "".join(f"# {line}\n" for line in (*str(tuned).split("; "), how))
    path.write_text(header + OmegaConf.to_yaml(OmegaConf.create(fields)))
    return path
