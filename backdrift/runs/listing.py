"""The run folders on the disk: which there are, which is the newest, and how far each one is."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHECKPOINT = re.compile(r"step-(\d{8,18})")
"""How the folders of checkpoints are called. Others beside them are somebody else's, and are left alone."""

DEPTH = 3
"""How many folders deep runs are looked for: those of a sweep lie in the folder of the sweep."""

LIKELIHOOD = re.compile(r"^Test set: (?:mean log-density )?(\S+)(?: ± \S+)? (nats|bits/dim)", re.MULTILINE)
"""How the `report.md` of a run without `report.json`, which is an old one, begins its line on the likelihood."""


@dataclass(frozen=True)
class RunSummary:
    """What a run folder tells without its data, its network or torch.

    Attributes:
        path: the folder.
        process: name of the class of the process, or that of the target density of Langevin chains.
        data: name of the data set's class, or "".
        step: optimiser steps in the newest checkpoint, None without one.
        steps: optimiser steps that were asked for, None where none were.
        loss: held-out loss of the averaged weights once training is done, before that the last training loss.
        held_out: whether `loss` is the held-out one.
        likelihood: of the test set, with its unit: bits/dim of discrete data, nats of continuous data; or "".
    """

    path: Path
    process: str
    data: str
    step: int | None
    steps: int | None
    loss: float | None
    held_out: bool
    likelihood: str


def find_runs(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The run folders in `folder`, those of its sweeps included. Nothing inside a run folder is one."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if (path / "config.yaml").is_file() and (path / "versions.json").is_file():
            yield path
        elif depth > 1:
            yield from find_runs(path, depth - 1)


def created(path: Path) -> tuple[float, str]:
    """When a run was made, for sorting: its `config.yaml` is written once, at its start."""
    return (path / "config.yaml").stat().st_mtime, path.name


def last_step(path: Path) -> int | None:
    """Optimiser steps in the newest whole checkpoint of a run folder, None without one."""
    names = (found.parent.name for found in (path / "checkpoints").glob("step-*/state.json"))
    return max((int(found[1]) for name in names if (found := CHECKPOINT.fullmatch(name))), default=None)


def run_path(path: str | int | Path) -> Path:
    """The folder that `run=path` means: `latest` is the newest run in `runs`, `<folder>/latest` that in `<folder>`.

    Raises:
        FileNotFoundError: if the newest run is asked for and there is no run with a checkpoint.
    """
    found = Path(str(path)).expanduser()
    if found.name != "latest" or found.exists():
        return found
    folder = Path("runs") if found.parent == Path() else found.parent
    runs = [run for run in find_runs(folder) if last_step(run) is not None]
    if not runs:
        raise FileNotFoundError(f"run={path}: there is no run with a checkpoint in the folder {folder}")
    return max(runs, key=created)


def summarise(path: Path) -> RunSummary:
    """Read what a run folder tells about itself; what is absent or damaged is left out."""
    config = _read_yaml(path / "config.yaml")
    train = config.get("train")
    loss, held_out = _held_out_loss(path), True
    if loss is None:
        loss, held_out = _last_training_loss(path), False
    return RunSummary(
        path=path,
        process=_class_name(config, "sde") or _class_name(config, "target"),
        data=_class_name(config, "data"),
        step=last_step(path),
        steps=train.get("steps") if isinstance(train, dict) else None,
        loss=loss,
        held_out=held_out,
        likelihood=_likelihood(path),
    )


def table(summaries: list[RunSummary]) -> str:
    """One line for each run, under a line of headings."""
    rows = [("run", "process", "data", "step", "loss", "likelihood")]
    for run in summaries:
        step = "-" if run.step is None else f"{run.step}/{run.steps}"
        loss = "-" if run.loss is None else f"{run.loss:.4g}{'' if run.held_out else ' (training)'}"
        rows.append((str(run.path), run.process or "-", run.data or "-", step, loss, run.likelihood or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _rounded(value: float, error: object) -> str:
    """A value to the second digit of its error, as reports show it."""
    if not isinstance(error, float) or not error > 0:
        return f"{value:.4g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(error)))}f}"


def _class_name(config: dict[str, Any], key: str) -> str:
    part = config.get(key)
    return str(part.get("_target_", "")).rpartition(".")[2] if isinstance(part, dict) else ""


def _held_out_loss(path: Path) -> float | None:
    try:
        return float(_read_json(path / "held_out.json")["loss"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _last_training_loss(path: Path) -> float | None:
    try:
        lines = (path / "metrics.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):  # a kill may have cut the last one short
        try:
            return float(json.loads(line)["loss"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def _likelihood(path: Path) -> str:
    """From the report, else from the table of the newest `backdrift likelihood` of the test set."""
    known = _read_json(path / "report.json").get("likelihood")
    if isinstance(known, dict) and isinstance(known.get("value"), float):
        return f"{_rounded(known['value'], known.get('standard_error'))} {known.get('unit')}"
    report = path / "report.md"
    found = LIKELIHOOD.search(report.read_text(encoding="utf-8")) if report.is_file() else None
    if found is not None:
        return f"{found[1]} {found[2]}"
    tables = sorted(path.glob("likelihood-test*/likelihood.csv"), key=lambda file: file.stat().st_mtime)
    if not tables:
        return ""
    with tables[-1].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    column, unit = ("bits_per_dim", "bits/dim") if rows and "bits_per_dim" in rows[0] else ("log_prob_nats", "nats")
    return f"{statistics.fmean(float(row[column]) for row in rows):.4g} {unit}" if rows else ""
