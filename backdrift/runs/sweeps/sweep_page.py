"""The table of a sweep for a reader: `sweep.md`, and `sweep.html` whose columns sort by a click."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import quote

from backdrift.runs.atomic import write_text
from backdrift.runs.html_page import page
from backdrift.runs.naming import key_of
from backdrift.runs.sweeps.job_table import Row

OBJECTIVES = {"train": "held-out loss"}
"""What the objective of a command is. The commands that are not here have none."""


def write_pages(folder: Path, command: str, rows: Sequence[Row], common: Collection[str]) -> None:
    """Write `sweep.md` and `sweep.html` into the folder of a sweep, over older ones.

    Args:
        folder: of the sweep.
        command: of its jobs.
        rows: the jobs.
        common: the overrides that all jobs share. They have no column.

    Raises:
        OSError: if a file cannot be written.
    """
    text = sweep_text(folder, command, rows, common)
    write_text(folder / "sweep.md", text)
    write_text(folder / "sweep.html", page(text, f"sweep {folder.name}", folder))


def sweep_text(folder: Path, command: str, rows: Sequence[Row], common: Collection[str]) -> str:
    """The table in Markdown: a row for each job and a column for each key that differs between them.

    Args:
        folder: of the sweep, for links to the reports that are there.
        command: of the jobs.
        rows: the jobs.
        common: the overrides that all jobs share.
    """
    values = [{key_of(each): _value(each) for each in row.overrides if each not in common} for row in rows]
    keys = list(dict.fromkeys(key for found in values for key in found))
    objective = OBJECTIVES.get(command, "objective")
    messages = ["message"] if any(row.message for row in rows) else []
    head = ["job", "status", objective, *keys, "folder", *messages]
    lines = [
        f"# Sweep {_cell(folder.name)}",
        "",
        f"`backdrift {command} -m`, {len(rows)} jobs. {_note(command)}".strip(),
    ]
    shared = sorted(common)
    if shared:
        lines += ["", "All jobs have " + ", ".join(f"`{each}`" for each in shared) + "."]
    lines += ["", _line(map(_cell, head)), "|" + " --- |" * len(head)]
    for row, found in zip(rows, values, strict=True):
        number = "" if row.objective is None else f"{row.objective:.5g}"
        changed = [_cell(found.get(key, "")) for key in keys]
        said = [_cell(row.message)] if messages else []
        lines.append(_line([str(row.job), row.status, number, *changed, _linked(folder, row.folder), *said]))
    return "\n".join(lines) + "\n"


def _note(command: str) -> str:
    """What a reader of the objective should know."""
    if command != "train":
        return ""
    return "Held-out losses can be compared where the process, the loss and the data are the same."


def _value(override: str) -> str:
    """What an override says of its key; "removed" for `~key`."""
    return "removed" if override.startswith("~") else override.partition("=")[2]


def _linked(folder: Path, name: str) -> str:
    """The name of a run folder, as a link to its report where there is one."""
    there = bool(name) and (folder / name / "report.html").is_file()
    return f"[{_cell(name)}]({quote(name)}/report.html)" if there else _cell(name)


def _cell(text: str) -> str:
    """A text in a table of Markdown, in one line, in which no sign has a meaning."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.split()))


def _line(cells: Sequence[str] | map[str]) -> str:
    return "| " + " | ".join(cells) + " |"
