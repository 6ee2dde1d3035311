"""The table of a sweep: one row a job, kept as one file a job so that jobs in parallel do not disturb each other."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from backdrift.runs.lock import locked

Status = Literal["running", "finished", "failed", "interrupted"]
"""A job that was killed without notice stays "running" in the table until the sweep is resumed."""


@dataclass(frozen=True)
class Row:
    """One job of a sweep.

    Attributes:
        job: its number, from 0.
        status: see `Status`.
        objective: what the command returned: for `train` the held-out loss. None before the end, or without one.
        folder: its run folder, relative to the folder of the sweep; "" for a command that makes none.
        overrides: the overrides that make this job with the command alone.
        message: why it failed, in one line.
    """

    job: int
    status: Status
    objective: float | None
    folder: str
    overrides: tuple[str, ...]
    message: str = ""

    @property
    def key(self) -> str:
        """16 digits that stand for the overrides, whatever their order."""
        return key_of_job(self.overrides)


def key_of_job(overrides: Sequence[str]) -> str:
    """16 hexadecimal digits of a hash of the overrides, whatever their order."""
    return hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()[:16]


class SweepTable:
    """`jobs/<number>-<key>.json` and `sweep.csv`, which is made of them, in the folder of a sweep.

    Every file is written under another name and renamed, so that a reader finds a whole one at any moment.

    Args:
        folder: the folder of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs, self.csv = folder, folder / "jobs", folder / "sweep.csv"

    def rows(self) -> list[Row]:
        """All rows, by the number of the job.

        Raises:
            ValueError: if a file is damaged.
        """
        return sorted((_read(file) for file in self.jobs.glob("*.json")), key=lambda row: (row.job, row.key))

    def find(self, job: int, overrides: Sequence[str]) -> Row | None:
        """The row of a job: that with its number and overrides, else a finished one, else any with its overrides."""
        same = [row for row in self.rows() if row.key == key_of_job(overrides)]
        order = sorted(same, key=lambda row: (row.job != job, row.status != "finished"))
        return order[0] if order else None

    def write(self, row: Row) -> None:
        """Write a row, and the table."""
        self.jobs.mkdir(exist_ok=True)
        with locked(self.jobs / ".lock"):
            self._write(row)

    def add(self, row: Row, planned: Path) -> Row:
        """Write the row of a new job and give it a run folder: `planned`, with a number where another job has that."""
        self.jobs.mkdir(exist_ok=True)
        with locked(self.jobs / ".lock"):
            taken = {other.folder for other in self.rows() if other.key != row.key}
            name, number = os.path.relpath(planned, self.folder), 1
            while (folder := name if number == 1 else f"{name}-{number}") in taken or (
                self.folder / folder / "config.yaml"
            ).exists():
                number += 1
            row = replace(row, folder=Path(folder).as_posix())
            self._write(row)
        return row

    def _write(self, row: Row) -> None:
        _replace(self.jobs / f"{row.job}-{row.key}.json", json.dumps(asdict(row), indent=2) + "\n")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        for each in self.rows():
            objective = "" if each.objective is None else repr(each.objective)
            writer.writerow([each.job, each.status, objective, each.folder, shlex.join(each.overrides), each.message])
        _replace(self.csv, text.getvalue())

    def text(self, common: Collection[str] = ()) -> str:
        """The rows for a terminal, the overrides in `common` left out, which all jobs share."""
        lines = [("job", "status", "objective", "changes", "folder")]
        for row in self.rows():
            changes = shlex.join(override for override in row.overrides if override not in common)
            objective = "-" if row.objective is None else f"{row.objective:.5g}"
            lines.append((str(row.job), row.status, objective, changes or "-", row.folder or "-"))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _read(file: Path) -> Row:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        return Row(**{**read, "overrides": tuple(read["overrides"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error}); remove it, and its job is run again") from error


def _replace(file: Path, text: str) -> None:
    hidden = file.with_name(f".{file.name}.new")  # not a name that `rows` reads
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(file)
