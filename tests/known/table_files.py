"""Tables in text, as spreadsheets, data frames, instruments and people write them."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
from data_files import DataFile, file_of

T = np.random.default_rng(0).normal(size=(12, 3)).round(3)
ROWS = [[repr(float(value)) for value in row] for row in T]


def text(
    sep: str = ",",
    end: str = "\n",
    header: list[str] | None = None,
    decimal: str = ".",
    quote: str = "",
    last: str = "\n",
) -> str:
    rows = [*([header] if header else []), *([cell.replace(".", decimal) for cell in row] for row in ROWS)]
    return end.join(sep.join(f"{quote}{cell}{quote}" for cell in row) for row in rows) + last


def with_cell(cell: str, header: str = "a,b,c\n") -> str:
    """The table with the second cell of the fifth row replaced."""
    rows = [list(row) for row in ROWS]
    rows[4][1] = cell
    return header + "".join(",".join(row) + "\n" for row in rows)


def column(cells: list[str], name: str = "v.csv", values: list[float] | None = None, usable: bool = True) -> DataFile:
    """A table of one column, which holds the cells three times."""
    expected = None if values is None else np.tile(values, 3)[:, None]
    return DataFile(
        f"column of {cells[0]}", file_of(name, "a\n" + "\n".join(3 * cells) + "\n"), expected, usable=usable
    )


NAMES = ["a", "b", "c"]
COUNT = [str(k) for k in range(12)]

RIGHT: list[tuple[str, str, bytes | str]] = [
    ("commas", "t.csv", text()),
    ("semicolons", "t.csv", text(";")),
    ("tabs in .tsv", "t.tsv", text("\t")),
    ("tabs in .txt", "t.txt", text("\t")),
    ("tabs in .csv", "t.csv", text("\t")),
    ("bars", "t.csv", text("|")),
    ("blanks", "t.txt", text(" ")),
    ("several blanks", "t.txt", text("   ")),
    ("blanks after commas", "t.csv", text(", ")),
    ("blanks around cells", "t.csv", text(" , ")),
    ("Windows line ends", "t.csv", text(end="\r\n", last="\r\n")),
    ("old Mac line ends", "t.csv", text(end="\r", last="\r")),
    ("no end of the last line", "t.csv", text(last="")),
    ("empty lines at the end", "t.csv", text(last="\n\n\n")),
    ("empty lines between", "t.csv", text(end="\n\n")),
    ("separator at line ends", "t.csv", text(end=",\n", last=",\n")),
    ("quotes", "t.csv", text(quote='"')),
    ("header", "t.csv", text(header=NAMES)),
    ("header in quotes with commas", "t.csv", text(header=['"a, of it"', "b", "c"])),
    ("header in quotes with a line break", "t.csv", text(header=['"a\nof it"', "b", "c"])),
    ("header of years", "t.csv", text(header=["2019", "2020", "2021"])),
    ("header of numbers", "t.csv", text(header=["0", "1", "2"])),
    ("header beyond ASCII", "t.csv", text(header=["größe", "温度", "🙂"])),
    ("byte order mark", "t.csv", b"\xef\xbb\xbf" + text(header=NAMES).encode()),
    ("byte order mark without header", "t.csv", b"\xef\xbb\xbf" + text().encode()),
    ("UTF-16, little end first", "t.csv", b"\xff\xfe" + text(header=NAMES).encode("utf-16-le")),
    ("UTF-16, big end first", "t.csv", b"\xfe\xff" + text(header=NAMES).encode("utf-16-be")),
    ("Latin-1", "t.csv", text(header=["größe", "b", "c"]).encode("latin-1")),
    ("Windows-1252", "t.csv", text(header=["price €", "b", "c"]).encode("cp1252")),
    ("gzip", "t.csv.gz", gzip.compress(text().encode())),
    ("gzip of .tsv", "t.tsv.gz", gzip.compress(text("\t").encode())),
    ("capital letters in the suffix", "T.CSV", text()),
    ("capital letters in .csv.gz", "T.CSV.GZ", gzip.compress(text().encode())),
    ("blanks and accents in the name", "my tablé 1.csv", text()),
    ("comments", "t.csv", "# from the lab\n" + text() + "# end\n"),
    ("header of numpy.savetxt", "t.csv", "# a,b,c\n" + text()),
    ("decimal commas between semicolons", "t.csv", text(";", decimal=",")),
    ("decimal commas between tabs", "t.tsv", text("\t", decimal=",")),
    ("decimal commas in quotes", "t.csv", text(decimal=",", quote='"')),
    ("Excel's line of the separator", "t.csv", "sep=;\n" + text(";")),
    ("rows numbered by pandas", "t.csv", ",a,b,c\n" + "".join(f"{k},{','.join(r)}\n" for k, r in enumerate(ROWS))),
    ("rows numbered by R", "t.txt", "a b c\n" + "".join(f"{k + 1} {' '.join(r)}\n" for k, r in enumerate(ROWS))),
    ("plus signs", "t.csv", text().replace("\n", "\n+", 0) if T[0, 0] < 0 else "+" + text()),
    ("typographic minus signs", "t.csv", text().replace("-", "\N{MINUS SIGN}")),
    ("exponents", "t.csv", "".join(",".join(f"{v:.16e}" for v in row) + "\n" for row in T)),
    (
        "exponents of Fortran",
        "t.csv",
        "".join(",".join(f"{v:.16e}".replace("e", "D") for v in r) + "\n" for r in T),
    ),
    ("zeros before", "t.csv", "".join(",".join(f"{v:+09.3f}" for v in row) + "\n" for row in T)),
]

READ = [DataFile(name, file_of(file, content), T) for name, file, content in RIGHT]

VALUES = [
    column(["1,234.5", "2,000.25", "3,500.75", "900.5"], "v.tsv", [1234.5, 2000.25, 3500.75, 900.5]),
    column(["1'234.5", "2'000.25", "3'500.75", "900.5"], values=[1234.5, 2000.25, 3500.75, 900.5]),
    column(
        ["1\N{NO-BREAK SPACE}234,5", "2\N{NO-BREAK SPACE}000,25", "3,75", "9,5"], "v.tsv", [1234.5, 2000.25, 3.75, 9.5]
    ),
    column(["12%", "8.5%", "100%", "3%"], values=[0.12, 0.085, 1.0, 0.03]),
    column(["$5.50", "$7.25", "$1.00", "$2.00"], values=[5.5, 7.25, 1.0, 2.0]),
    column(["5.50 €", "7.25 €", "1.00 €", "2.00 €"]),  # or two columns between blanks
    column(["(5.5)", "7.25", "(1.0)", "2.0"], values=[-5.5, 7.25, -1.0, 2.0]),
    column(["true", "false", "true", "false"], values=[1, 0, 1, 0]),
    column(["TRUE", "FALSE", "TRUE", "TRUE"], values=[1, 0, 1, 1]),
    column(["1e-300", "2e-300", "3e-300", "5e-300"], values=[1e-300, 2e-300, 3e-300, 5e-300], usable=False),
    column(
        ["1700000000.125", "1700000060.25", "1700000120.5", "1700000180.0"],
        values=[1700000000.125, 1700000060.25, 1700000120.5, 1700000180.0],
    ),
    column(["9007199254740991", "9007199254740990", "1", "5"], values=[2**53 - 1, 2**53 - 2, 1, 5]),
    column(["1e308", "-1e308", "0.5", "1"], values=[1e308, -1e308, 0.5, 1], usable=False),
    column(["7", "7", "7", "7"], values=[7, 7, 7, 7], usable=False),
    column(["5e-324", "0.0", "-0.0", "1"], values=[5e-324, 0, -0.0, 1]),
    column([".5", "-.25", "5.", "1"], values=[0.5, -0.25, 5, 1]),
    column(["1.7976931348623157e308", "0.25", "1.0", "2.0"], values=[1.7976931348623157e308, 0.25, 1, 2], usable=False),
]

WRONG: list[tuple[str, str, bytes | str]] = [
    ("empty file", "t.csv", ""),
    ("byte order mark alone", "t.csv", b"\xef\xbb\xbf"),
    ("header alone", "t.csv", "a,b,c\n"),
    ("empty lines alone", "t.csv", "\n\n\n"),
    ("comments alone", "t.csv", "# a\n# b\n"),
    ("one row", "t.csv", "1.5,2.5\n"),
    ("missing value NA", "t.csv", with_cell("NA")),
    ("empty cell", "t.csv", with_cell("")),
    ("nan", "t.csv", with_cell("nan")),
    ("inf", "t.csv", with_cell("inf")),
    ("-Infinity", "t.csv", with_cell("-Infinity")),
    ("1e400", "t.csv", with_cell("1e400")),
    ("word", "t.csv", with_cell("broken")),
    ("Excel's error", "t.csv", with_cell("#DIV/0!")),
    ("day", "t.csv", with_cell("2020-01-31")),
    ("day with time", "t.csv", with_cell("2020-01-31T12:30:00Z")),
    ("time", "t.csv", with_cell("12:30:05")),
    ("German day", "t.csv", with_cell("31.1.2020")),
    ("complex number", "t.csv", with_cell("1+2j")),
    ("hexadecimal number", "t.csv", with_cell("0x1F")),
    ("underscore", "t.csv", with_cell("1_000")),
    ("two points", "t.csv", with_cell("1.2.3")),
    ("two signs", "t.csv", with_cell("--5")),
    ("two units", "t.csv", with_cell("$5 €")),
    ("whole number beyond 2^53", "t.csv", with_cell("9007199254740993")),
    ("formula", "t.csv", with_cell("=A1+B1")),
    ("quote that does not end", "t.csv", with_cell('"5')),
    ("other digits", "t.csv", with_cell("\u0663,\u0665")),
    ("short row", "t.csv", text() + "1.0,2.0\n"),
    ("long row", "t.csv", text() + "1.0,2.0,3.0,4.0\n"),
    ("header that is short", "t.csv", text(header=["a", "b"])),
    ("header that is long", "t.csv", text(header=["a", "b", "c", "d"])),
    ("two columns of one name", "t.csv", text(header=["a", "a", "c"])),
    ("both decimal marks", "t.csv", "a;b\n" + "1,5;2.5\n" * 5),
    ("zero bytes", "t.csv", text().encode().replace(b",", b"\0")),
    ("UTF-16 without mark", "t.csv", text().encode("utf-16-le")),
    ("random bytes", "t.csv", np.random.default_rng(0).bytes(4000)),
    ("random bytes called .txt", "t.txt", bytes(range(128, 256)) * 10),
    ("JSON", "t.csv", '[{"a": 1.5, "b": 2}, {"a": 2.5, "b": 3}]'),
    ("HTML", "t.csv", "<html><body><table><tr><td>1</td></tr></table></body></html>"),
    ("a Python script", "t.txt", "import os\nprint(os.getcwd())\n"),
    ("gzip that is cut", "t.csv.gz", gzip.compress(text().encode())[:-20]),
    ("gzip with flipped bits", "t.csv.gz", gzip.compress(text().encode())[:30] + b"\xff" * 20),
    ("workbook of Excel", "t.xlsx", b"PK\x03\x04" + bytes(200)),
    ("Parquet", "t.parquet", b"PAR1" + bytes(200) + b"PAR1"),
    ("unknown suffix", "t.dat", text()),
]

REFUSED = [DataFile(name, file_of(file, content), None) for name, file, content in WRONG]


def _linked(folder: Path) -> Path:
    file_of("t.csv", text())(folder)
    (folder / "link.csv").symlink_to(folder / "t.csv")
    return folder / "link.csv"


def _dangling(folder: Path) -> Path:
    (folder / "link.csv").symlink_to(folder / "nothing.csv")
    return folder / "link.csv"


def _circular(folder: Path) -> Path:
    (folder / "link.csv").symlink_to(folder / "link.csv")
    return folder / "link.csv"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "t.csv")
    return folder / "t.csv"


def _folder(folder: Path) -> Path:
    (folder / "t.csv").mkdir()
    return folder / "t.csv"


PLACES = [
    DataFile("link to a table", _linked, T),
    DataFile("link to nothing", _dangling, None),
    DataFile("link to itself", _circular, None),
    DataFile("named pipe", _pipe, None),
    DataFile("folder named .csv", _folder, None),
    DataFile("device", lambda _: Path("/dev/null"), None),
    DataFile("nothing", lambda folder: folder / "t.csv", None),
    DataFile("name of 5000 letters", lambda folder: folder / ("t" * 5000), None),
    DataFile("name with a zero byte", lambda folder: folder / "t\0.csv", None),
]

CHOSEN = [
    DataFile("header forced", file_of("t.csv", "5,6,7\n" + text()), T, {"header": True}),
    DataFile("header denied", file_of("t.csv", "0,1,2\n" + text()), np.vstack([[0, 1, 2], T]), {"header": False}),
    DataFile(
        "index left out",
        file_of("t.csv", "".join(f"{9 - k},{','.join(r)}\n" for k, r in enumerate(ROWS))),
        T,
        {"index": False},
    ),
    DataFile("size of a table", file_of("t.csv", text()), None, {"size": 8}),
    DataFile("layout of a table", file_of("t.csv", text()), None, {"layout": "channels_last"}),
    DataFile("flipped table", file_of("t.csv", text()), None, {"flip": True}),
    DataFile("levels of fractions", file_of("t.csv", text()), None, {"levels": 4}),
]

CASES = [*READ, *VALUES, *REFUSED, *PLACES, *CHOSEN]
