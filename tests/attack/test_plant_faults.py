"""The script that plants faults: each is one change that parses, a seed names them, and what was done is kept."""

import ast
import importlib.util
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import forked_pytest
import pytest
from fault_places import Fault, chosen, faults_in, lines_of_code, planted
from reached_tests import ReachedTests, Test, order

ROOT = Path(__file__).parents[2]

EXAMPLE = '''
"""Text with 1 + 1, True and max(2, 3)."""

__all__ = ["f"]
LIMIT: Literal[4] = 5


def f(x: Annotated[float, 7], first: bool = True) -> Literal[8]:
    """Adds 1."""
    if not (x < 1 and first):
        return -x
    if x > 2:
        raise ValueError(f"{x + 1} is more than " + str(9))
    x *= 0.5
    print(1 + 1)
    z = max(x.log()
            .sqrt(), math.exp(x - 3))  # π
    return "π", z // x
'''
"""Every place in it is listed below."""

EXPECTED = [
    ("5", "6"),
    ("True", "False"),
    ("not ", ""),
    ("<", "<="),
    ("1", "2"),
    ("and", "or"),
    ("return -x", "pass"),
    ("-", ""),
    (">", ">="),
    ("2", "3"),
    ("*=", "/="),
    ("0.5", "1.0"),
    ("max", "min"),
    (".log()", ""),
    (".sqrt()", ""),
    ("math.exp", ""),
    ("-", "+"),
    ("3", "4"),
    ("//", "*"),
]


def test_the_places_are_where_the_code_computes() -> None:
    assert [(fault.before, fault.after) for fault in faults_in(EXAMPLE)] == EXPECTED


@pytest.mark.parametrize("path", ["", "sde/prior.py", "solvers/density/bounds.py"])
def test_a_fault_is_one_change_of_the_code_that_parses(path: str) -> None:
    """What stands before and after the change is as it was, and Python reads another program."""
    source = (ROOT / path).read_text() if path else EXAMPLE
    before, lines = ast.dump(ast.parse(source)), source.splitlines(keepends=True)
    for fault in faults_in(source):
        changed = planted(source, fault)
        ahead = "".join(lines[: fault.line - 1]) + lines[fault.line - 1][: fault.column]
        behind = source[len(ahead) + len(fault.before) :]
        assert changed == ahead + fault.after + behind and source == ahead + fault.before + behind
        assert ast.dump(ast.parse(changed)) != before


def test_a_fault_is_planted_only_where_it_belongs() -> None:
    with pytest.raises(ValueError, match=r"a\.py:2 does not have '\+' at column 4"):
        planted("x = 1\ny = x - 1\n", Fault("a.py", 2, 4, "+", "-", ((2, 2),)))


def test_the_scopes_of_a_fault_are_its_statement_its_function_and_its_file() -> None:
    faults = {fault.before: fault for fault in faults_in(EXAMPLE)}
    assert faults["<"].scopes == ((10, 10), (9, 18), (1, 18))
    assert faults[".sqrt()"].scopes == ((16, 17), (9, 18), (1, 18))
    assert faults["5"].scopes == ((5, 5), (1, 18))
    assert faults["True"].scopes[1:] == ((9, 18), (1, 18))


def test_a_seed_names_the_faults() -> None:
    """The same seed gives the same ones, a larger number continues, and each is another."""
    texts = {name: (ROOT / "sde" / name).read_text() for name in ("gaussian.py", "linear.py", "prior.py")}
    some, more = chosen(texts, 20, seed=3), chosen(texts, 60, seed=3)
    assert more[:20] == some and len(set(more)) == 60
    assert set(chosen(texts, 20, seed=4)) != set(some)
    assert len(chosen({"a.py": "x = 1 + 1\n"}, 100, seed=0)) == 3


def test_files_are_chosen_by_their_lines_of_code() -> None:
    """Of 80 faults, 1/4 are expected in a file with a third of the other's lines; within 4 standard errors."""
    texts = {"short.py": "x = 1\n" * 100, "long.py": '"""Text."""\n' + "x = 1  # 1\n" * 300}
    assert [lines_of_code(text) for text in texts.values()] == [100, 300]
    count = Counter(fault.path for fault in chosen(texts, 80, seed=0))
    assert abs(count["short.py"] - 20) < 4 * math.sqrt(80 * 0.25 * 0.75)


def test_the_nearest_and_fastest_tests_run_first_and_their_time_is_bounded() -> None:
    times = {
        "tests/sde/test_linear.py::a": 5.0,
        "tests/sde/test_linear.py::b": 1.0,
        "tests/sde/test_check.py::c": 0.5,
        "tests/sde/test_check.py::d": 90.0,
        "tests/models/test_loss.py::e": 2.0,
        "tests/solvers/tables/test_table.py::f": 1.0,
        "tests/solvers/tables/test_table.py::g": 1.5,
    }
    taken = order("sde/linear.py", [Test(*item) for item in times.items()], near_seconds=10.0, far_seconds=3.0)
    assert [test.node[-1] for test in taken] == ["b", "a", "c", "f", "g"]


def test_the_nearest_scope_that_tests_reach_says_which_tests_run(tmp_path: Path) -> None:
    """Of a list of constants, whose lines run when it is imported, they are all tests."""
    source = "LIMIT = 3\n\n\ndef f(x=1):\n    y = x + 2\n    return 4 * y\n\n\ndef g(x):\n    return x - 5\n"
    reached = ReachedTests(tmp_path, tmp_path)
    reached.tests = {name: Test(name, 1.0) for name in "abc"}
    reached.reached, both = {"sde/some.py": {5: {"a", "b"}, 6: {"b"}}}, ["a", "b"]
    found = {fault.before: reached.of(fault) for fault in faults_in(source, "sde/some.py")}
    assert found == {key: ["b"] if key in "4*" else both for key in "312+-54*"}
    assert reached.of(faults_in("LIMIT = 3\n", "sde/limits.py")[0]) == ["a", "b", "c"]


# ---- a repository of its own ----

SQUARE = """
def square(x):
    return x * x


def untested(x):
    return x + 1


def count(n):
    while n > 0:
        n -= 1
    return n


LOOSE = 3
"""

TESTS = """
import pytest
from backdrift.square import LOOSE, count, square

@pytest.fixture(scope="module")
def nine():
    return square(3)

def test_it_is_a_number(nine):
    assert nine > 0

def test_square(nine):
    assert nine == 9

def test_count():
    assert count(3) == 0

def test_broken():
    assert square(3) == count(3) == 8

@pytest.mark.parametrize("limit", [LOOSE, 7])
def test_limit(limit):
    assert square(limit) > 0 and limit in (3, 7)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    texts = {"backdrift/__init__.py": "", "backdrift/square.py": SQUARE, "tests/backdrift/test_square.py": TESTS}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tests/known").mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *words], check=True)
    return tmp_path


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, without what is slow in it: a fresh interpreter in each child takes no package along."""
    made = importlib.util.spec_from_file_location("plant_faults", ROOT / "tests/attack/plant_faults.py")
    assert made is not None and made.loader is not None
    module = importlib.util.module_from_spec(made)
    monkeypatch.setitem(sys.modules, "plant_faults", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made.loader.exec_module(module)
    monkeypatch.setattr(module, "import_heavy_packages", lambda: None)
    monkeypatch.setattr(module.os, "nice", lambda more: 0)
    monkeypatch.setattr(forked_pytest, "LIMIT", (10.0, 2.0))
    for name in [name for name in sys.modules if name.partition(".")[0] == "backdrift"]:
        monkeypatch.delitem(sys.modules, name)
    return module


@pytest.mark.slow
def test_faults_are_caught_hang_or_go_unnoticed(
    script: Any, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fault of a small package, with its verdict; and the same rows where the work was interrupted."""
    pytest.importorskip("coverage")
    results = repository / "results.jsonl"
    words = ["--root", str(repository), "--results", str(results), "--number", "100"]
    script.main(words)
    told = capsys.readouterr().out
    found = {(row["line"], row["before"]): row for row in map(json.loads, results.read_text().splitlines())}
    test = "tests/backdrift/test_square.py::"
    assert {place: (row["verdict"], row["test"]) for place, row in found.items()} == {
        (3, "*"): ("caught", test + "test_square"),  # 3 / 3 is a number as well; the fixture is made by the test before
        (7, "+"): ("not caught", ""),
        (7, "1"): ("not caught", ""),
        (11, ">"): ("caught", test + "test_count"),
        (11, "0"): ("caught", test + "test_count"),
        (12, "-="): ("hung", test + "test_count"),
        (12, "1"): ("caught", test + "test_count"),
        (16, "3"): ("caught", test + "test_limit[4]"),  # which has that name with the fault alone
    }
    assert "8 faults: 5 caught, 2 not caught, 1 hung" in told
    assert "not caught: backdrift/square.py:7  '+' -> '-' at column 13\n    return x + 1" in told
    assert (repository / "backdrift/square.py").read_text() == SQUARE

    complete = results.read_text().splitlines(keepends=True)
    results.write_text("".join(complete[:5]) + complete[5][:20])  # it ended in the middle of a row
    script.main(words)
    again = capsys.readouterr().out
    assert "measuring" not in again and again.count("backdrift/square.py") == 3 + told.count("not caught: ") // 2
    without = [{**json.loads(line), "seconds": 0} for line in results.read_text().splitlines()]
    assert without == [{**json.loads(line), "seconds": 0} for line in complete]
