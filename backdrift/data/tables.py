"""Tables of numbers in text: .csv, .tsv and .txt, compressed or not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from backdrift.data.cells import Fault, decimal_mark, kind_of, plain_numbers, read_column
from backdrift.data.outliers import column_name
from backdrift.data.rows import Rows, read_rows
from backdrift.data.samples import Samples

UNNAMED = {"", "Unnamed: 0"}
"""How data frames call the column that numbers their rows."""


def read_table(path: Path, header: bool | None = None, index: bool | None = None) -> Samples:
    """A table of numbers, one sample in a row, between commas, semicolons, tabs, bars or blanks.

    Args:
        path: the file.
        header: whether the first row holds the names of the columns. By default it does if it has words in it, or if it
            counts up by one, from 0, from a year or, with three columns or more, from 1, while others hold fractions.
        index: whether to keep the first column. By default it is kept, unless it has no name, beside others that have
            one, and numbers the rows from 0 or 1, as a data frame writes it.

    Raises:
        ValueError: naming the row and the column, if a cell is missing, infinite, a date or a word, or a row has
            another length; if there are no rows, or it is not clear whether a row or a column belongs to the samples.
    """
    rows = read_rows(path)
    notes = list(rows.notes)
    first = _take_names(rows, header, path, notes)
    _check_lengths(rows, path)
    names = _take_index(rows, _fit_names(rows, first, path), index, path, notes)
    if not rows.cells or not rows.cells[0]:
        raise ValueError(f"path={path}: holds no samples (a table of {len(rows.cells)} rows)")
    columns = list(zip(*rows.cells, strict=True))
    values = _values(columns, rows, names, path, notes)
    return Samples.of(values, path, columns=names, notes=notes)


def _take_names(rows: Rows, header: bool | None, path: Path, notes: list[str]) -> list[str] | None:
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
        if _numbers_rows([cells[0] for cells in below]):
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


def _numbers_rows(cells: Sequence[str]) -> bool:
    """Whether a column numbers the rows, from 0 or 1. Of fewer than three rows that cannot be told."""
    return len(cells) > 2 and cells[0] in ("0", "1") and _counts_up(cells)


def _is_start(cell: str, columns: int) -> bool:
    """Whether names that are numbers may begin with this one: 0, a year, or 1 if there are more than two."""
    return int(cell) == 0 or 1000 <= int(cell) < 3000 or (int(cell) == 1 and columns > 2)


def _check_lengths(rows: Rows, path: Path) -> None:
    for line, cells in zip(rows.lines, rows.cells, strict=True):
        if len(cells) != len(rows.cells[0]):
            raise ValueError(
                f"path={path}: row {line} has {len(cells)} values, those before {len(rows.cells[0])}: "
                f"{(rows.mark or ' ').join(cells)[:60]!r}"
            )


def _fit_names(rows: Rows, names: list[str] | None, path: Path) -> list[str] | None:
    """Names, one for each column. R writes no name for the column that numbers the rows."""
    if names is None or not rows.cells or len(names) == len(rows.cells[0]):
        return names
    numbered = rows.mark != "," and _numbers_rows([cells[0] for cells in rows.cells])  # commas may be decimal marks
    if len(names) + 1 == len(rows.cells[0]) and numbered:
        return ["", *names]
    raise ValueError(
        f"path={path}: the first row has {len(names)} names, the others {len(rows.cells[0])} values; "
        "a line that is a comment begins with #, and values with decimal commas are in quotes or between semicolons"
    )


def _take_index(
    rows: Rows, names: list[str] | None, index: bool | None, path: Path, notes: list[str]
) -> tuple[str, ...] | None:
    """The final names of the columns. The column that numbers the rows is taken off."""
    numbers = [cells[0] for cells in rows.cells]
    unnamed = names is not None and len(names) > 1 and names[0] in UNNAMED
    counts = _numbers_rows(numbers)
    if index is None and unnamed and numbers:
        if not counts:
            raise ValueError(
                f"path={path}: column 1 has no name and does not number the rows (its first cell is {numbers[0]!r}); "
                "data.index=true keeps it, data.index=false leaves it out"
            )
        notes.append("column 1 has no name and numbers the rows, and is left out; data.index=true keeps it")
    elif index is None and counts and len(rows.cells[0]) > 1:
        notes.append(f"{column_name(0, names)} numbers the rows and is kept; data.index=false leaves it out")
    if index is False or (index is None and unnamed):
        if rows.cells and len(rows.cells[0]) < 2:
            raise ValueError(f"path={path}: index=false leaves out the only column")
        for cells in rows.cells:
            del cells[0]
        names = None if names is None else names[1:]
    elif unnamed and names is not None:
        names = ["index", *names[1:]]
    if names is None:
        return None
    for number, name in enumerate(names):
        if not name:
            names[number] = f"column {number + 1}"
            notes.append(f"a column without a name is called {names[number]!r}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"path={path}: two columns have the name {twice[0]!r}; rename one")
    return tuple(" ".join(name.split()) for name in names)


def _values(
    columns: Sequence[Sequence[str]], rows: Rows, names: tuple[str, ...] | None, path: Path, notes: list[str]
) -> np.ndarray:
    """The numbers of all columns `[n, d]`."""
    read: list[np.ndarray | Fault | None] = [plain_numbers(cells) for cells in columns]
    if any(values is None for values in read):
        try:
            decimal, shown = decimal_mark(columns, rows.mark)
        except ValueError as error:
            raise ValueError(f"path={path}: {error}") from error
        if decimal == ",":
            notes.append(f"the decimal mark is a comma, as in {shown!r}")
        elif shown is not None and "," in shown:
            notes.append(f"commas stand between thousands, as in {shown!r}")
        for number, cells in enumerate(columns):
            if read[number] is None or decimal == ",":
                said: list[str] = []
                plain = plain_numbers(cells, decimal)
                read[number] = read_column(cells, decimal, said) if plain is None else plain
                notes.extend(note.replace("{column}", column_name(number, names)) for note in said)
    faults = [(found.row, number, found.said) for number, found in enumerate(read) if isinstance(found, Fault)]
    if faults:
        row, number, said_of = min(faults)
        where = {"{row}": str(rows.lines[row]), "{column}": column_name(number, names)}
        for key, value in where.items():
            said_of = said_of.replace(key, value, 1)
        raise ValueError(f"path={path}: {said_of}")
    return np.stack([values for values in read if isinstance(values, np.ndarray)], axis=1)
