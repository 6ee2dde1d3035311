"""conf/solver/<name>.yaml says what the solvers themselves say."""

from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from backdrift.runs.comments import comments, key_lines
from backdrift.runs.configuration import config_folder
from backdrift.runs.solver_options import OTHERS, WIDTH, commented, descriptions, names, text, write
from backdrift.solvers import CATALOGUE


def test_the_folder_holds_what_the_solvers_say() -> None:
    """`python -m backdrift.runs.solver_options` writes it anew."""
    folder = config_folder() / "solver"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == names()
    for name in names():
        assert (folder / f"{name}.yaml").read_text(encoding="utf-8") == text(name), name


@pytest.mark.parametrize("name", names())
def test_an_option_builds_its_solver(name: str) -> None:
    """Every argument comes back from the yaml: numbers to the bit, infinity, null and solvers within solvers."""
    solver = CATALOGUE[name].solver if name in CATALOGUE else OTHERS[name][0]
    assert instantiate(yaml.safe_load(text(name)), _convert_="all") == solver


@pytest.mark.parametrize("name", names())
def test_every_key_is_explained(name: str) -> None:
    """The header names the source, each key has a comment, and where the value is null it says what null means."""
    written = text(name)
    explained = comments(written)
    assert explained[()]
    for key, number in key_lines(written):
        if key[-1] == "_target_":
            continue
        assert explained[key], key
        if ": null  #" in written.splitlines()[number]:
            assert "null" in explained[key] or "by default" in explained[key], key


class Base:
    """A base.

    Args:
        steps: how many steps; None for 3. They are even,
            whatever the process.
        low, high: ends of the range.
    """


class Derived(Base):
    """Another.

    Args:
        grid: where the steps lie, at times from 0.5 to 1.0 or
            at False. The default is even.

    Raises:
        ValueError: never.
    """


def test_first_sentences_come_from_the_docstrings_of_a_class_and_its_bases() -> None:
    """A sentence ends at a full stop, not at a decimal point; several names share one; Python's words become yaml's."""
    assert descriptions(Derived) == {
        "steps": "how many steps; null for 3",
        "low": "ends of the range",
        "high": "ends of the range",
        "grid": "where the steps lie, at times from 0.5 to 1.0 or at false",
    }


def test_a_comment_ends_with_a_clause_that_fits() -> None:
    assert commented("steps: 20", "how many; at least 1") == "steps: 20  # how many; at least 1"
    assert commented("steps: 20", f"how many; {'at least 1, ' * 20}") == "steps: 20  # how many"
    long = "a" * WIDTH
    assert commented("steps: 20", long) == f"steps: 20  # {long}"


def test_written_files_are_the_texts(tmp_path: Path) -> None:
    write(tmp_path)
    assert {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {n: text(n) for n in names()}


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^name: expected one of adams, .*, got 'adam'$"):
        text("adam")
