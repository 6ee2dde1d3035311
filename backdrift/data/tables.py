"""Tables of numbers in text: .csv, .tsv and .txt, compressed or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backdrift.data.cells import Fault, decimal_mark, kind_of, plain_numbers, read_column
from backdrift.data.column_names import UNNAMED, fit_names, numbers_rows, take_names
from backdrift.data.outliers import column_name
from backdrift.data.rows import Rows, read_rows
from backdrift.data.samples import Samples


def read_table(path: Path, header: bool | None = None, index: bool | None = None, missing: bool = False) -> Samples:
    """A table of numbers, one sample in a row, between commas, semicolons, tabs, bars or blanks.

    Args:
        path: the file.
        header: whether the first row holds the names of the columns. By default it does if it has words in it, or if it
            counts up by one, from 0, from a year or, with three columns or more, from 1, while others hold fractions.
        index: whether to keep the first column. By default it is kept, unless it has no name, beside others that have
            one, and numbers the rows from 0 or 1, as a data frame writes it.
        missing: whether a missing cell is NaN; otherwise it is refused, and a row without a value is left out.

    Raises:
        ValueError: naming the row and the column, if a cell is missing, infinite, a date or a word, or a row has
            another length; if there are no rows, or it is not clear whether a row or a column belongs to the samples.
    """
    rows = read_rows(path, missing)
    notes = list(rows.notes)
    first = take_names(rows, header, path, notes)
    _check_lengths(rows, path)
    given, width = fit_names(rows, first, path), len(rows.cells[0]) if rows.cells else 0
    names = _take_index(rows, given, index, path, notes)
    if not rows.cells or not rows.cells[0]:
        raise ValueError(f"path={path}: holds no samples (a table of {len(rows.cells)} rows)")
    columns = list(zip(*rows.cells, strict=True))
    labels = [column_name(number, names, width - len(columns)) for number in range(len(columns))]
    values = _values(columns, rows, labels, path, notes, missing)
    return Samples.of(values, path, columns=names, notes=notes, places=rows.lines, missing=missing)


def _check_lengths(rows: Rows, path: Path) -> None:
    for line, cells in zip(rows.lines, rows.cells, strict=True):
        if len(cells) != len(rows.cells[0]):
            raise ValueError(
                f"path={path}: row {line} has {len(cells)} values, those before {len(rows.cells[0])}: "
                f"{(rows.mark or ' ').join(cells)[:60]!r}"
            )


def _take_index(
    rows: Rows, names: list[str] | None, index: bool | None, path: Path, notes: list[str]
) -> tuple[str, ...] | None:
    """The final names of the columns. The column that numbers the rows is taken off."""
    numbers = [cells[0] for cells in rows.cells]
    unnamed = names is not None and len(names) > 1 and names[0] in UNNAMED
    counts = numbers_rows(numbers)
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
    width = len(names) + (index is False or (index is None and unnamed))
    for number, name in enumerate(names):
        if not name:
            names[number] = f"column {number + 1 + width - len(names)}"
            notes.append(f"a column without a name is called {names[number]!r}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"path={path}: two columns have the name {twice[0]!r}; rename one")
    return tuple(" ".join(name.split()) for name in names)


def _values(
    columns: Sequence[Sequence[str]], rows: Rows, labels: Sequence[str], path: Path, notes: list[str], missing: bool
) -> np.ndarray:
    """The numbers of all columns `[n, d]`, which messages call by their `labels`."""
    if missing and any(kind_of(cell) == "missing" for cells in columns for cell in cells):
        return _with_gaps(columns, rows, labels, path, notes)
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
                notes.extend(note.replace("{column}", labels[number]) for note in said)
    faults = [(found.row, number, found.said) for number, found in enumerate(read) if isinstance(found, Fault)]
    if faults:
        row, number, said_of = min(faults)
        said_of = said_of.replace("{row}", str(rows.lines[row]), 1).replace("{column}", labels[number], 1)
        raise ValueError(f"path={path}: {said_of}")
    return np.stack([values for values in read if isinstance(values, np.ndarray)], axis=1)


def _with_gaps(
    columns: Sequence[Sequence[str]], rows: Rows, labels: Sequence[str], path: Path, notes: list[str]
) -> np.ndarray:
    """The numbers of all columns `[n, d]`, NaN for missing ones. Each column is read without its missing cells."""
    values = np.full((len(rows.cells), len(columns)), np.nan)
    for number, cells in enumerate(columns):
        known = [row for row, cell in enumerate(cells) if kind_of(cell) != "missing"]
        if known:
            kept = dataclasses.replace(rows, lines=[rows.lines[row] for row in known])
            column = [[cells[row] for row in known]]
            values[known, number] = _values(column, kept, [labels[number]], path, notes, False)[:, 0]
    return values
