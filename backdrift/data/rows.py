"""From a text file to rows of cells: encoding, compression, separators, quotes, comments, empty rows."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MARKS = ";\t|,"
"""What can stand between cells. A comma beside one of the others is a decimal one."""

NO_MARK = "\x1f"
"""A sign that no text holds, for tables of one column."""

LOOKED_AT = 20
"""The first rows, by which the separator is chosen."""


@dataclass
class Rows:
    """Rows of cells.

    Attributes:
        cells: the cells of each row, without blanks around them and without quotes.
        lines: the number of the line, from 1, in which each row begins.
        mark: what stands between cells; a blank stands for any white space, and the empty string for one column.
        comments: the text of the lines before the first row that begin with #.
        notes: what was assumed or left out, in words for the user.
    """

    cells: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    mark: str = ""
    comments: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_rows(path: Path, missing: bool = False) -> Rows:
    """The rows of a table, compressed with gzip or not. Lines that begin with # are comments.

    Args:
        path: the file.
        missing: whether a row may miss all of its values: it is kept then, and noted. Otherwise it is left out.

    Raises:
        ValueError: if the file is damaged, is no text, or has a quote that does not end.
    """
    rows = Rows()
    text = _text(path, rows.notes)
    first, _, rest = text.partition("\n")
    skipped = 0
    if first.lower().startswith("sep=") and len(first) == 5:  # a line by which Excel is told the separator
        text, rows.mark, skipped = rest, first[4], 1
    else:
        rows.mark = _mark(text, path)
    reader = _Lines(text, skipped)
    empty: list[int] = []
    without: list[int] = []
    try:
        for cells in csv.reader(reader, delimiter=rows.mark or NO_MARK, skipinitialspace=True, strict=True):
            cells = [cell.strip() for cell in cells]
            line = reader.begin_row()
            kept = missing and bool(cells and rows.cells)  # a line with nothing in it is no row
            if any(cells) or kept:
                rows.cells.append(cells)
                rows.lines.append(line)
            if not any(cells) and (rows.cells or len(cells) > 1):
                (without if kept else empty).append(line)
    except csv.Error as error:
        raise ValueError(f"path={path}: row {reader.began}: not a row of cells ({error})") from error
    rows.comments = [comment for line, comment in reader.comments if not rows.lines or line < rows.lines[0]]
    if without:
        rows.notes.append(f"rows all of whose values are missing: {len(without)}, the first is row {without[0]}")
    _tell(rows, empty, len(reader.comments))
    return rows


def _tell(rows: Rows, empty: list[int], comments: int) -> None:
    """Take cells that are empty in all rows off the end, and note whatever is left out."""
    last = rows.lines[-1] if rows.lines else 0
    inside = [line for line in empty if line < last]
    if inside:
        rows.notes.append(f"rows without values that are left out: {len(inside)}, the first is row {inside[0]}")
    if comments:
        rows.notes.append(f"lines that begin with # and are left out as comments: {comments}")
    dropped = 0
    while rows.cells:
        width = max(map(len, rows.cells))
        longest = [cells for cells in rows.cells if len(cells) == width]
        if width < 2 or any(cells[-1] for cells in longest):
            break
        for cells in longest:
            cells.pop()
        dropped += 1
    if dropped:
        rows.notes.append(f"columns at the end without names or values that are left out: {dropped}")


class _Lines(Iterator[str]):
    """The lines of a text without comments. It knows where a row began, as cells in quotes may hold line breaks.

    Attributes:
        began: the number of the line in which the current row began.
        comments: the number and the text of each comment.
    """

    def __init__(self, text: str, skipped: int) -> None:
        self._lines = enumerate(io.StringIO(text), start=1 + skipped)
        self._within = False
        self.began, self.comments = 0, list[tuple[int, str]]()

    def __next__(self) -> str:
        for number, line in self._lines:
            if self._within:
                return line
            if line.startswith("#"):
                self.comments.append((number, line[1:].strip()))
                continue
            self._within, self.began = True, number
            return line.strip(" \n") + "\n"
        raise StopIteration

    def begin_row(self) -> int:
        """The number of the line in which the row that was just read began."""
        self._within = False
        return self.began


def _text(path: Path, notes: list[str]) -> str:
    """The text of a file, with line feeds for all kinds of line ends."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"path={path}: damaged gzip file ({error})") from error
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError as error:
            raise ValueError(f"path={path}: not a text file ({error})") from error
        notes.append("the text is not UTF-8 and is read as Windows-1252")
    if "\0" in text:
        raise ValueError(f"path={path}: not a text file (it holds bytes of zero)")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _mark(text: str, path: Path) -> str:
    """What stands between cells: the mark that most of the first rows hold, else white space, else nothing."""
    if path.name.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    looked: list[str] = []
    for line in io.StringIO(text):
        if line.strip() and not line.startswith("#"):
            looked.append("".join(line.split('"')[::2]).strip(" \n"))  # without what is in quotes
        if len(looked) == LOOKED_AT:
            break
    held = {mark: sum(mark in line for line in looked) for mark in MARKS}
    best = max(held, key=lambda mark: held[mark])
    if held[best]:
        return best
    return " " if looked and len(looked[-1].split()) > 1 else ""
