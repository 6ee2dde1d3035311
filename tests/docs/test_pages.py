"""What stands on the pages of the documentation runs, composes, and is complete."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from doc_pages import DOCS, PAGES, ROOT, blocks, name
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from present import present

from backdrift.cli import COMMANDS, parser
from backdrift.runs.configuration import Job
from backdrift.runs.sweeps.plan import checked_plan
from backdrift.solvers import CATALOGUE

WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
LINES = {
    " ".join(words): words
    for page in PAGES
    for block in blocks(page)
    if block.language == "console" and block.mark != "run"  # those are run by the slow test
    for words in block.commands()
}
"""Each command once, however many pages have it."""
OTHER = {"pip", ".venv/bin/pip", "sphinx-build"}
"""Programs whose lines are checked elsewhere: the extras below, and the build of the site by its own test."""


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share their names and a folder, as they do for a reader. Their own asserts are the test."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.language == "python" and not block.mark:
            exec(compile(block.text, str(page), "exec"), names)


FENCE = re.compile(r"^```(.*)\n(?:.*\n)*?```$", re.MULTILINE)
RUN = {"python", "console"}
WIDEST = 120
"""Letters of a line of code that the site shows without scrolling, in a window of 1280 pixels."""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_is_overlooked(page: Path) -> None:
    """Every block of code is of a language that these tests run, and no code stands in an indented block."""
    text = page.read_text(encoding="utf-8")
    assert {kind for kind in FENCE.findall(text) if not kind.startswith("{")} <= RUN  # {…} is a directive of Sphinx
    assert not re.search(r"^    (?:\$ |backdrift |python |pip )", FENCE.sub("", text), re.MULTILINE)
    of_these = [kind for kind in FENCE.findall(text) if kind in RUN]
    assert len(of_these) == len(blocks(page)), "a block that the pattern of doc_pages does not see"
    too_long = [line for block in blocks(page) for line in block.text.splitlines() if len(line) > WIDEST]
    assert too_long == []


@pytest.mark.parametrize("words", LINES.values(), ids=LINES.keys())
def test_commands_compose(words: list[str]) -> None:
    if "backdrift" in words:  # after torchrun's or accelerate's own words
        words = words[words.index("backdrift") :]
    program, *rest = words
    if program != "backdrift":
        assert program in OTHER or words[:3] == ["python3", "-m", "venv"], f"{program}: what does this line do?"
        return
    assert rest[0] in COMMANDS
    asked = parser(rest[0]).parse_intermixed_args(rest[1:])
    job = Job(rest[0], tuple(asked.overrides))
    wanted = re.search(r"hydra/launcher=(\S+)", " ".join(asked.overrides))
    if wanted and not any(wanted[1] in kind.__module__ for kind in Plugins.instance().discover(Launcher)):
        pytest.skip(f"the launcher {wanted[1]} is not installed")
    if wanted or "hydra/sweeper" in str(asked.overrides):
        checked_plan(job)
    else:
        (job.split()[0] if asked.multirun else job).config()


@pytest.mark.parametrize("room", ["sde", "models", "solvers"])
def test_every_public_name_has_an_entry(room: str) -> None:
    page = (DOCS / "api" / f"{room}.md").read_text(encoding="utf-8")
    found = re.findall(rf"^\.\. (?:auto)?(?:class|function|data):: backdrift\.{room}\.(\w+)$", page, re.MULTILINE)
    assert sorted(found) == sorted(import_module(f"backdrift.{room}").__all__), f"docs/api/{room}.md"


def test_install_names_every_extra() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", project, re.DOTALL | re.MULTILINE)
    extras = re.findall(r"^(\w+) = \[", present(table)[1], re.MULTILINE)
    assert first_cells("install.md") == set(extras)
    for page in PAGES:
        for names in re.findall(r'"(?:\.|backdrift)\[([\w,]+)\]"', page.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= set(extras), f"{name(page)}: [{names}]"


def first_cells(page: str) -> set[str]:
    """What stands between backticks at the beginning of the rows of a page's tables."""
    return set(re.findall(r"^\| `(\w+)` \|", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE))


def options(group: str) -> set[str]:
    return {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


def test_every_option_of_sde_and_solver_has_a_row() -> None:
    assert first_cells("processes.md") == options("sde")
    assert first_cells("solvers.md") | set(CATALOGUE) == options("solver")


def test_every_notebook_has_a_row() -> None:
    page = (DOCS / "notebooks.md").read_text(encoding="utf-8")
    there = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"\(notebooks/([\w.]+)\)", page)) == there


def test_every_page_is_in_the_table_of_contents() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```{toctree}\n(.*?)```", text, re.DOTALL)
    listed = {line for tree in trees for line in tree.splitlines() if line}
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in [*PAGES, *DOCS.glob("api/*.md")]}
    assert pages - listed == {"index"}
