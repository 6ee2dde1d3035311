"""The README's library example runs, its files exist, and its commands compose."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from backdrift.runs.configuration import Job

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = re.findall(r"^    (?:\.venv/bin/)?backdrift (.*)$", README, re.MULTILINE)
COMMANDS = [line.split("#")[0].replace("…", "x").split() for line in LINES]


def test_the_example_runs_and_is_right() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example, "README.md", "exec"), {})
    error = re.search(r"largest error: (\S+) nats", said.getvalue())
    assert error is not None
    assert float(error[1]) < 0.01


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_commands_compose(line: list[str]) -> None:
    command, *rest = line
    job = Job(command, tuple(part for part in rest if part != "-m"))
    for part in job.split() if "-m" in rest else [job]:
        part.config()
