"""Tables as spreadsheets, data frames and people write them: read right, or told with row and column."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from backdrift.data.samples import Samples
from backdrift.data.tables import read_table

ROWS = [[1.5, 20.0], [-2.25, 3000.0], [0.125, 4.0]]


def read(tmp_path: Path, text: str | bytes, name: str = "a.csv", **options: bool) -> Samples:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(path, **options)


PLAIN = "x,y\n1.5,20\n-2.25,3000\n0.125,4\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.encode("utf-16"),
        gzip.compress(PLAIN.encode(), mtime=0),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "x,y\r1.5,20\r\n-2.25,3000\n0.125,4",
        PLAIN + "\n\n",
        PLAIN + ",\n,,\n",
        PLAIN.replace(",", ",   "),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace(",", "  "),
        "sep=;\n" + PLAIN.replace(",", ";"),
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("\n", ",\n").replace("x,y,", "x,y"),
        '"x","y"\n"1.5","20"\n"-2.25","3000"\n"0.125","4"\n',
        'x,y\n1.5,20\n-2.25,"3,000"\n0.125,4\n',
        "x,y\n1.5,20\n\u22122.25,3000\n0.125,4\n",
        "x;y\n1,5;20\n-2,25;3.000\n0,125;4\n",
        "x;y\n1,5;20\n-2,25;3000,0\n0,125;4\n",
        "x\ty\n1,5\t20\n-2,25\t3 000\n0,125\t4\n",
        "x;y\n1.5;20\n-2.25;3'000\n0.125;4\n",
        "x;y\n1.5;20\n-2.25;3\u202f000\n0.125;4\n",
        'x,y\n1.5,$20\n-2.25,"$3,000.00"\n0.125,$4\n',
        "x;y\n1,5;20 €\n-2,25;3.000 €\n0,125;4 €\n",
        "x,y\n1.5,20\n(2.25),3000\n0.125,4\n",
        "x,y\n150%,20\n-225%,3000\n12.5%,4\n",
        "x,y\n1.5e0,2E1\n-2.25,3D3\n0.125,.4e1\n",
        ",x,y\n0,1.5,20\n1,-2.25,3000\n2,0.125,4\n",
        "Unnamed: 0,x,y\n0,1.5,20\n1,-2.25,3000\n2,0.125,4\n",
        '"","x","y"\n"1",1.5,20\n"2",-2.25,3000\n"3",0.125,4\n',
        "x y\n1 1.5 20\n2 -2.25 3000\n3 0.125 4\n",
        '# measured in May\nx,y\n1.5,20\n# a bad day, "really\n-2.25,3000\n0.125,4\n',
        "# x,y\n1.5,20\n-2.25,3000\n0.125,4\n",
    ],
)
def test_a_table_is_read_however_it_is_written(tmp_path: Path, text: str | bytes) -> None:
    found = read(tmp_path, text)
    assert found.values.tolist() == ROWS
    assert found.columns == ("x", "y")


def test_names_with_marks_and_line_breaks_in_quotes_are_one_name(tmp_path: Path) -> None:
    found = read(tmp_path, '"mass, in kg","the ""height""\nin m"\n1.5,20\n-2.25,3000\n0.125,4\n')
    assert found.columns == ("mass, in kg", 'the "height" in m') and found.values.tolist() == ROWS


def test_a_row_is_counted_by_its_first_line_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 5 holds 'x' in column 2 \('b'\), expected numbers"):
        read(tmp_path, '# one\n"a\nA",b\n1,2\n3,x\n')


def test_a_name_ending_in_tsv_is_a_table_between_tabs(tmp_path: Path) -> None:
    found = read(tmp_path, "a,1\tb,1\n1\t2\n3\t5\n", "a.tsv")
    assert found.columns == ("a,1", "b,1") and found.values.tolist() == [[1, 2], [3, 5]]


def test_names_that_are_numbers_are_no_sample(tmp_path: Path) -> None:
    for header in ("0,1,2", "1,2,3", "2019,2020,2021"):
        found = read(tmp_path, f"{header}\n1.5,2.5,0.5\n-1,2,3.25\n")
        assert found.values.tolist() == [[1.5, 2.5, 0.5], [-1, 2, 3.25]] and found.columns == tuple(header.split(","))
        assert "counts up and is taken for names; data.header=false makes it a sample" in found.notes[0]
        assert len(read(tmp_path, f"{header}\n1.5,2.5,0.5\n-1,2,3.25\n", header=False).values) == 3
    found = read(tmp_path, "year,2019,2020\n7,1.5,2.5\n9,-1,2\n")
    assert found.columns == ("year", "2019", "2020") and len(found.values) == 2
    assert "(year, 2019, 2020) is taken for names" in found.notes[0]
    found = read(tmp_path, ",0\n0,1.5\n1,2.5\n2,0.5\n")
    assert found.columns == ("0",) and found.values.tolist() == [[1.5], [2.5], [0.5]]


@pytest.mark.parametrize(
    ("text", "columns"),
    [("1,2\n3,4.5\n", None), ("#a,b,c\n0,1,2\n3,4.5,1\n", ("a", "b", "c")), ("# a b\n0 1\n3 4.5\n", ("a", "b"))],
)
def test_numbers_that_could_be_names_are_a_sample_where_they_hardly_are(
    tmp_path: Path, text: str, columns: tuple[str, ...] | None
) -> None:
    """Two columns are seldom called 1 and 2, and a comment with the names of all columns leaves none to the row."""
    found = read(tmp_path, text)
    assert len(found.values) == 2 and found.columns == columns


def test_whole_numbers_above_whole_numbers_are_a_sample_and_told(tmp_path: Path) -> None:
    found = read(tmp_path, "1,2,3\n4,5,6\n8,8,8\n")
    assert found.values.tolist() == [[1, 2, 3], [4, 5, 6], [8, 8, 8]] and found.columns is None
    assert "is taken for a sample; data.header=true makes it names" in found.notes[0]
    found = read(tmp_path, "1,2,3\n4,5,6\n8,8,8\n", header=True)
    assert found.values.tolist() == [[4, 5, 6], [8, 8, 8]] and found.columns == ("1", "2", "3")


def test_other_numbers_above_numbers_are_a_sample(tmp_path: Path) -> None:
    found = read(tmp_path, "1.5,2\n3,4.5\n")
    assert found.values.tolist() == [[1.5, 2], [3, 4.5]] and not found.notes


def test_the_column_that_numbers_the_rows_is_told_and_kept_if_asked(tmp_path: Path) -> None:
    frame = ",x\n0,1.5\n1,2.5\n2,0.5\n"
    found = read(tmp_path, frame)
    assert "column 1 has no name and numbers the rows, and is left out" in found.notes[0]
    found = read(tmp_path, frame, index=True)
    assert found.columns == ("index", "x") and found.values[:, 0].tolist() == [0, 1, 2]
    named = "id,x\n1,1.5\n2,2.5\n3,0.5\n"
    assert read(tmp_path, named).columns == ("id", "x")
    assert "column 1 ('id') numbers the rows and is kept; data.index=false leaves it out" in read(tmp_path, named).notes
    assert read(tmp_path, named, index=False).values.tolist() == [[1.5], [2.5], [0.5]]
    with pytest.raises(ValueError, match="column 1 has no name and does not number the rows"):
        read(tmp_path, ",x\n3,1.5\n1,2.5\n2,0.5\n")
    with pytest.raises(ValueError, match="column 1 has no name and does not number the rows"):
        read(tmp_path, ",x\n2001,1.5\n2002,2.5\n2003,0.5\n")
    with pytest.raises(ValueError, match="index=false leaves out the only column"):
        read(tmp_path, "x\n1.5\n2.5\n", index=False)


def test_truth_values_are_one_and_zero(tmp_path: Path) -> None:
    found = read(tmp_path, "a,b\n1.5,True\n2.5,FALSE\n")
    assert found.values.tolist() == [[1.5, 1], [2.5, 0]]
    assert found.notes == ("column 2 ('b'): true is read as 1, false as 0",)


def test_what_is_assumed_is_told(tmp_path: Path) -> None:
    for text, said in (
        ("a;b\n1,5;2\n", "the decimal mark is a comma, as in '1,5'"),
        ("a;b\n1,234;2\n", "the decimal mark is a comma, as in '1,234'"),
        ('a,b\n"1,234",2\n', "commas stand between thousands, as in '1,234'"),
        ("a,b\n12%,2\n", "column 1 ('a'): in per cent, '12%' is read as 0.12"),
        ("a,b\n$12,2\n", "column 1 ('a'): in $, '$12' is read as 12"),
        ("a,b,\n1,2.5,\n", "columns at the end without names or values that are left out: 1"),
        ("a,b\n1,2.5\n\n,\n3,4\n", "rows without values that are left out: 2, the first is row 3"),
        ("# x\na,b\n1,2.5\n", "lines that begin with # and are left out as comments: 1"),
        ("a,,b\n1,2.5,3\n", "a column without a name is called 'column 2'"),
        ("gr\xf6\xdfe,b\n1,2.5\n".encode("cp1252"), "the text is not UTF-8 and is read as Windows-1252"),
    ):
        assert said in read(tmp_path, text).notes, text
    assert not read(tmp_path, PLAIN).notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3,\n", r"row 3 is empty in column 2 \('b'\); 1 of its 2 cells is missing"),
        ("a,b\n1,2\nNA,5\n6,NA\n", r"row 3 holds 'NA', a missing value, in column 1 \('a'\)"),
        ("a,b\n1,2\n3,NaN\n", r"row 3 holds 'NaN', a missing value, in column 2 \('b'\)"),
        ("a,b\n1,NULL\n3,4\n", r"row 2 holds 'NULL', a missing value, in column 2 \('b'\)"),
        (",a\n0,1\n1,x\n2,3\n", r"row 3 holds 'x' in column 2 \('a'\), expected numbers such as 1.5$"),
        ("a,b\nx,1\ny,2\nz,3\n", r"'x' in column 1 \('a'\), .* leave this column of words out \(TableDensity"),
        ("1,2\n3,#N/A\n", "row 2 holds '#N/A', a missing value, in column 2;"),
        ("a,b\n1,2\n3,-inf\n", r"row 3 holds '-inf' in column 2 \('b'\), expected a finite number"),
        ("a,b\n1,2\n3,1e999\n", r"row 3 holds '1e999' in column 2 \('b'\), expected a finite number"),
        ("a,b\n1,2\n3,1_000\n", r"row 3 holds '1_000' in column 2 \('b'\), expected numbers such as 1.5"),
        ("a,b\n1,2\n3,0x1F\n", r"row 3 holds '0x1F' in column 2 \('b'\)"),
        (
            "day,b\n2020-01-31,2\n",
            r"row 2 holds the date or time '2020-01-31' in column 1 \('day'\); write it as a number",
        ),
        ("day;b\n31.1.2020;2,5\n", r"row 2 holds the date or time '31.1.2020' in column 1 \('day'\)"),
        ("t,b\n12:30,2\n", r"row 2 holds the date or time '12:30' in column 1 \('t'\); write it as a number"),
        ("day,b\n01/31/2020 12:30,2\n", r"row 2 holds the date or time '01/31/2020 12:30' in column 1"),
        ("a,b\n5%,2\n7,3\n", r"row 3 holds '7' in column 1 \('a'\), expected % as above it"),
        ("a,b\n5,2\n7 €,3\n", r"row 3 holds '7 €' in column 1 \('a'\), expected no unit as above it"),
        ("a,b\ntrue,2\n1,3\n", r"row 2 holds 'true' in column 1 \('a'\), expected numbers"),
        ("a;b\n1,5;2.5\n", "'1,5' has a decimal comma and '2.5' a decimal point; write all alike"),
        ("a\tb\n1,234\t2\n", "'1,234' can mean 1.234 or 1234; write it without a comma"),
        ('a,b\n"1,23,456",2\n', r"row 2 holds '1,23,456' in column 1 \('a'\), expected numbers"),
        ("a,b\n9007199254740993,2\n", "row 2 holds '9007199254740993' in column 1 .*beyond 2\\^53"),
        ("a,b\n1,2\n3,4,5\n", "row 3 has 3 values, those before 2: '3,4,5'"),
        ("a,b\n1,2,3\n4,5,6\n", "the first row has 2 names, the others 3 values"),
        ("x\n1,5\n2,5\n3,5\n", "the first row has 1 names, the others 2 values; .*decimal commas are in quotes"),
        ("a,b,a\n1,2,3\n", "two columns have the name 'a'; rename one"),
        ("1.5,x\n2.5,3\n", "row 1 holds 'x' beside '1.5'; data.header=true makes it the names"),
        ("1.5,cat\n2.5,dog\n", "row 1 holds 'cat' in column 2, expected numbers"),
        ('a,b\n1,"2\n3,4\n', "row 2: not a row of cells"),
        (b"a,b\n1,\x002\n", "not a text file"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "damaged gzip file"),
        ("# only a comment\n", "holds no samples"),
    ],
)
def test_what_cannot_be_read_is_told_with_row_and_column(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path, text)
    assert str(error.value).startswith("path=") and "\n" not in str(error.value)


def test_numbers_have_all_their_digits(tmp_path: Path) -> None:
    """Float64 has 17 significant digits, and `repr` writes all that matter."""
    values = np.random.default_rng(0).normal(size=(50, 3)) * [1e-8, 1, 1.7e9]
    text = "".join(",".join(map(repr, row)) + "\n" for row in values.tolist())
    assert np.array_equal(read(tmp_path, text).values.numpy(), values)
    german = text.replace(",", ";").replace(".", ",")
    assert np.array_equal(read(tmp_path, german).values.numpy(), values)
