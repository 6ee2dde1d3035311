"""From cells of text to numbers, as spreadsheets, data frames and people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backdrift.data.samples import EXACT

MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "none", "missing", "-", "--", "?", ".", "#nv"} | {
    "#value!",
    "#div/0!",
    "#ref!",
    "#num!",
    "#name?",
}
"""What stands for a missing value, in small letters."""

TRUTH = {"true": 1.0, "false": 0.0}

UNIT = r"[$€£¥₹%]|USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD"

NUMBER = re.compile(
    rf"(?P<open>\()?(?P<sign>[+-])? ?(?P<before>{UNIT})? ?(?P<sign2>[+-])?"
    rf"(?P<core>\d[\d.,' ]*|[.,]\d+)(?P<exponent>[eEdD][+-]?\d+)? ?(?P<after>{UNIT})?(?P<close>\))?"
)
"""A number with a sign, a unit before or after it, marks between its digits and an exponent; (5) is -5 in accounts."""

DATE = re.compile(r"\d{4}([-/])\d\d?\1\d\d?([T ].*)?|\d\d?([./-])\d\d?\3\d{2,4}( .*)?|\d\d?:\d\d.*")
"""Days such as 2020-01-31 and 31.1.2020, perhaps with a time, and times such as 12:30."""

GROUPS = {mark: re.compile(rf"[1-9]\d{{0,2}}({re.escape(mark)}\d{{3}})+") for mark in ",."}
"""Digits in groups of three with a mark between them."""


@dataclass(frozen=True)
class Fault:
    """A cell that cannot be read.

    Attributes:
        row: its place among the rows.
        said: what is wrong, with `{row}` and `{column}` to be filled in.
    """

    row: int
    said: str


def kind_of(cell: str) -> str:
    """What a cell looks like: "missing", "truth", "date", "number" or "word"."""
    if cell.lower() in MISSING:
        return "missing"
    if cell.lower() in TRUTH:
        return "truth"
    if DATE.fullmatch(cell):
        return "date"
    return "number" if NUMBER.fullmatch(_plain(cell)) or cell.lower().lstrip("+-") in ("inf", "infinity") else "word"


def plain_numbers(cells: Sequence[str], decimal: str = ".") -> np.ndarray | None:
    """The numbers of a column, if all of its cells are written as Python writes finite numbers, otherwise None.

    Args:
        cells: of the column.
        decimal: the decimal mark in place of Python's.
    """
    if decimal == ",":
        cells = [cell.replace(",", ".") if "." not in cell else "no" for cell in cells]
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    plain = bool(np.isfinite(values).all()) and bool((np.abs(values) < EXACT).all()) and "_" not in "".join(cells)
    return values if plain else None


def decimal_mark(columns: Sequence[Sequence[str]], mark: str) -> tuple[str, str | None]:
    """The decimal mark of a table, and the cell that shows that it is a comma.

    A comma or a point before any other number of digits than three is a decimal mark; if a cell has both, the last one
    is. Where nothing else decides, as in 1,234, a comma is a decimal mark in tables with semicolons (where spreadsheets
    write them because of it), and stands between thousands in tables with commas.

    Raises:
        ValueError: if some cells show the one and others the other, or nothing decides.
    """
    shown: dict[str, str] = {}
    doubtful = None
    for cell in (cell for cells in columns for cell in cells if "," in cell or "." in cell):
        if ("," in shown and "." not in cell) or ("." in shown and "," not in cell):
            continue  # it shows nothing new
        found = NUMBER.fullmatch(_plain(cell))
        if found is None or DATE.fullmatch(cell):
            continue
        core = found["core"].replace("'", "").replace(" ", "")
        last = "," if core.rfind(",") > core.rfind(".") else "."
        grouped = GROUPS[last].fullmatch(core)
        if core.count(last) == 1 and not grouped:
            shown.setdefault(last, cell)
        elif grouped and core.count(last) > 1:
            shown.setdefault("." if last == "," else ",", cell)
        elif grouped and last == ",":
            doubtful = doubtful or cell
    if len(shown) == 2:
        raise ValueError(f"{shown[',']!r} has a decimal comma and {shown['.']!r} a decimal point; write all alike")
    if shown:
        return next(iter(shown.items()))
    if doubtful is not None and mark not in (",", ";"):
        value = doubtful.replace(",", "")
        raise ValueError(f"{doubtful!r} can mean {doubtful.replace(',', '.')} or {value}; write it without a comma")
    return (",", doubtful) if doubtful is not None and mark == ";" else (".", doubtful)


def read_column(cells: Sequence[str], decimal: str, notes: list[str]) -> np.ndarray | Fault:
    """The numbers of a column, or the first cell that is none.

    Args:
        cells: of the column.
        decimal: the decimal mark.
        notes: what is assumed is added to these, with `{column}` to be filled in.
    """
    kinds = [kind_of(cell) for cell in cells]
    if set(kinds) == {"truth"}:
        notes.append("{column}: true is read as 1, false as 0")
        return np.array([TRUTH[cell.lower()] for cell in cells])
    values, units = np.empty(len(cells)), ""
    for row, (cell, kind) in enumerate(zip(cells, kinds, strict=True)):
        if kind != "number":
            return Fault(row, _wrong(cell, kind, kinds.count(kind), len(cells)))
        read = _number(cell, decimal)
        if isinstance(read, str):
            return Fault(row, read)
        values[row], unit = read
        if row and unit != units:
            return Fault(row, f"row {{row}} holds {cell!r} in {{column}}, expected {units or 'no unit'} as above it")
        units = unit
    if units == "%":
        notes.append(f"{{column}}: in per cent, {cells[0]!r} is read as {values[0]:g}")
    elif units:
        notes.append(f"{{column}}: in {units}, {cells[0]!r} is read as {values[0]:g}")
    return values


def _number(cell: str, decimal: str) -> tuple[float, str] | str:
    """A number and its unit, or what is wrong with it."""
    holds = f"row {{row}} holds {cell!r} in {{column}}"
    found = NUMBER.fullmatch(_plain(cell))
    if found is None:
        return f"{holds}, expected a finite number"
    thousands = "," if decimal == "." else "."
    whole, mark, fraction = found["core"].strip().partition(decimal)
    group = re.compile(rf"\d{{1,3}}([{re.escape(thousands)}' ])\d{{3}}(\1\d{{3}})*")
    signs = [sign for sign in (found["sign"], found["sign2"]) if sign]
    units = [unit for unit in (found["before"], found["after"]) if unit]
    brackets = bool(found["open"]) + bool(found["close"])
    if (whole and not whole.isdigit() and not group.fullmatch(whole)) or (fraction and not fraction.isdigit()):
        return f"{holds}, expected numbers such as 1.5"
    if len(signs) > 1 or len(units) > 1 or brackets == 1 or (brackets and signs):
        return f"{holds}, expected numbers such as 1.5"
    digits = re.sub(r"[.,' ]", "", whole)
    exponent = (found["exponent"] or "").lower().replace("d", "e")
    value = float(f"{digits or '0'}.{fraction or '0'}{exponent}")
    if not math.isfinite(value):
        return f"{holds}, expected a finite number"
    if not mark and not exponent and int(digits) > EXACT and int(value) != int(digits):
        return f"{holds}, beyond 2^53, where float64 skips whole numbers; subtract a constant first"
    value = value / 100 if units == ["%"] else value
    return (-value if brackets or signs == ["-"] else value), (units[0] if units else "")


def _wrong(cell: str, kind: str, alike: int, rows: int) -> str:
    """What is wrong with a cell that holds no number, in a column where so many cells of all rows are of its kind."""
    if kind == "missing":
        what = f"holds {cell!r}, a missing value," if cell else "is empty"
        how_many = f"{alike} of its {rows} cells {'is' if alike == 1 else 'are'} missing"
        return (
            f"row {{row}} {what} in {{column}}; {how_many}: remove these rows or fill the cells "
            "(TableDensity, in Python, takes missing numbers)"
        )
    if kind == "date":
        return f"row {{row}} holds the date or time {cell!r} in {{column}}; write it as a number, such as seconds"
    advice = "; leave this column of words out (TableDensity, in Python, takes categories)" if 2 * alike > rows else ""
    return f"row {{row}} holds {cell!r} in {{column}}, expected numbers such as 1.5{advice}"


def _plain(cell: str) -> str:
    """A cell with plain signs in place of the typographic ones."""
    return cell.translate({0xA0: " ", 0x202F: " ", 0x2009: " ", 0x2212: "-", 0x2019: "'"})
