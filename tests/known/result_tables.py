"""Tables that commands write: lines that begin with #, names, and rows."""

import csv
from pathlib import Path


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows below the names."""
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def said_of(file: Path) -> dict[str, str]:
    """What the lines at the top say, which begin with #."""
    lines = [line[2:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}
