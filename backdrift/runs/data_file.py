"""`data.json` of a run folder: what the run knows of its data set, which need not be there to use the model."""

from __future__ import annotations

import json
from pathlib import Path

from backdrift.data import DataCard
from backdrift.runs.atomic import write_text

NAME = "data.json"

LARGEST = 16_000_000
"""Bytes of a file that is read. Moments and names of some 10,000 components have a tenth of them."""

FORMAT = 2
"""The format of a run folder, kept in `data.json`. Format 1 had no such file: its data set had to be read again."""


def write(folder: Path, card: DataCard) -> None:
    """Write the card of a run's data set. The file appears whole or not at all."""
    values = {"format": FORMAT, **card.to_dict()}
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items()]
    write_text(folder / NAME, "{\n" + ",\n".join(lines) + "\n}\n")


def read(folder: Path) -> DataCard | None:
    """The card of a run's data set, or None for a run of format 1.

    Raises:
        ValueError: if the file is damaged, or of a format that a later version of backdrift wrote.
    """
    file = folder / NAME
    if not file.exists():
        return None
    if file.stat().st_size > LARGEST:
        raise ValueError(f"run={folder}: its {NAME} has {file.stat().st_size} bytes, expected at most {LARGEST}")
    try:
        values = json.loads(file.read_text())
        if not isinstance(values, dict):
            raise ValueError("expected keys with values")
        found = values.pop("format")
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"run={folder}: its {NAME} is damaged: {error}") from error
    if found != FORMAT:
        raise ValueError(
            f"run={folder}: its {NAME} is of format {found}, this version of backdrift reads formats up to {FORMAT}; "
            "use a newer version"
        )
    try:
        return DataCard.from_dict(values)
    except ValueError as error:
        raise ValueError(f"run={folder}: its {NAME} is damaged: {error}") from error
