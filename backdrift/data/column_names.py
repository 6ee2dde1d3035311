"""Which row of a table, if any, holds the names of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from backdrift.data.cells import kind_of
from backdrift.data.rows import Rows

UNNAMED = {"", "Unnamed: 0"}
"""How data frames call the column that numbers their rows."""


def take_names(rows: Rows, header: bool | None, path: Path, notes: list[str]) -> list[str] | None:
    """The names of the columns, whose row is taken off the others, or None."""
    if not rows.cells:
        return None
    first = rows.cells[0]
    if header is None and rows.comments and rows.mark and not {"word", "date"} & set(map(kind_of, first)):
        # numpy.savetxt writes the names into a comment.
        words = [word.strip() for word in rows.comments[-1].split(rows.mark.strip(" ") or None)]
        if len(words) == len(first) and all(kind_of(word) == "word" for word in words):
            notes.append(f"the names of the columns are those of the comment {rows.comments[-1]!r}")
            return words
    if header is None:
        header = _is_header(rows, path, notes)
    if header:
        del rows.cells[0], rows.lines[0]
        return first
    return None


def fit_names(rows: Rows, names: list[str] | None, path: Path) -> list[str] | None:
    """Names, one for each column. R writes no name for the column that numbers the rows."""
    if names is None or not rows.cells or len(names) == len(rows.cells[0]):
        return names
    numbered = rows.mark != "," and numbers_rows([cells[0] for cells in rows.cells])  # commas may be decimal marks
    if len(names) + 1 == len(rows.cells[0]) and numbered:
        return ["", *names]
    raise ValueError(
        f"path={path}: the first row has {len(names)} names, the others {len(rows.cells[0])} values; "
        "a line that is a comment begins with #, and values with decimal commas are in quotes or between semicolons"
    )


def _is_header(rows: Rows, path: Path, notes: list[str]) -> bool:
    """Whether the first row holds names."""
    first, below = rows.cells[0], rows.cells[1:]
    kinds = [kind_of(cell) for cell in first]
    shown = ", ".join(first[:3]) + (", …" if len(first) > 3 else "")
    if "word" in kinds or "date" in kinds:
        words = [number for number, kind in enumerate(kinds) if kind in ("word", "date")]
        numbers = [cell for cell, kind in zip(first, kinds, strict=True) if kind == "number"]
        if not numbers:
            # A table of one column of dates has no header; words below a word are a fault of the second row.
            return "word" in kinds or not below or any(kind_of(cell) != "date" for cell in below[0])
        if below and all(kind_of(cell) in ("word", "date") for cell in _at(below[0], words)):
            return False  # a column of words: reading it will name the cell
        if not all(cell.isdigit() for cell in numbers):
            raise ValueError(
                f"path={path}: row {rows.lines[0]} holds {first[words[0]]!r} beside {numbers[0]!r}; data.header=true "
                "makes it the names of the columns, data.header=false a sample"
            )
        notes.append(f"the first row ({shown}) is taken for names; data.header=false makes it a sample")
        return True
    counting = first
    if first[0] in UNNAMED and len(first) > 1:
        if numbers_rows([cells[0] for cells in below]):
            return True  # beside the column that numbers the rows
        counting = first[1:]
    if not below or len(counting) < 2 or not _counts_up(counting) or not _is_start(counting[0], len(counting)):
        return False
    whole = all(cell.lstrip("+-").isdigit() or kind_of(cell) == "missing" for cells in below for cell in cells)
    if whole:
        notes.append(f"the first row ({shown}) is taken for a sample; data.header=true makes it names")
        return False
    notes.append(f"the first row ({shown}) counts up and is taken for names; data.header=false makes it a sample")
    return True


def _at(cells: Sequence[str], numbers: Sequence[int]) -> list[str]:
    return [cells[number] for number in numbers if number < len(cells)]


def _counts_up(cells: Sequence[str]) -> bool:
    """Whether cells hold whole numbers, each one more than the one before."""
    if not all(cell.isdigit() and len(cell) < 16 for cell in cells):
        return False
    return all(int(after) == int(before) + 1 for before, after in pairwise(cells))


def numbers_rows(cells: Sequence[str]) -> bool:
    """Whether a column numbers the rows, from 0 or 1. Of fewer than three rows that cannot be told."""
    return len(cells) > 2 and cells[0] in ("0", "1") and _counts_up(cells)


def _is_start(cell: str, columns: int) -> bool:
    """Whether names that are numbers may begin with this one: 0, a year, or 1 if there are more than two."""
    return int(cell) == 0 or 1000 <= int(cell) < 3000 or (int(cell) == 1 and columns > 2)
