"""The pages of the documentation and the README, cut into the blocks that a reader would run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [
    path
    for path in sorted(DOCS.rglob("*.md"))
    if not {"api", "notebooks", "extensions"} & set(path.relative_to(DOCS).parts)
]
"""Pages that are written by hand."""

BLOCK = re.compile(
    r"(?:^% (?P<mark>[^\n]*)\n\n?)?^```(?P<language>python|console)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: "python" or "console".
        text: what stands in it.
        mark: the comment above it: "slow: why" or "needs the run" for Python that only the slow test runs, "needs the
            package …" for Python that it runs where the package is installed, "run" for commands that the slow test
            runs, and empty otherwise.
    """

    language: str
    text: str
    mark: str

    @property
    def can_run(self) -> bool:
        """Whether the package that the mark names is there, or none is named."""
        named = self.mark.removeprefix("needs the package ")
        return named == self.mark or find_spec(named) is not None

    def commands(self) -> Iterator[list[str]]:
        """The words of each command, without comments, and with x in the place of an ellipsis.

        A command may go on in the next line, after a backslash.
        """
        for line in self.text.replace("\\\n", " ").splitlines():
            if not line.startswith("$ "):
                raise ValueError(f"a line of a console block: expected '$ ' and a command, got {line!r}")
            yield shlex.split(line[2:].replace("…", "x"), comments=True)


def name(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [Block(found["language"], found["text"], found["mark"] or "") for found in BLOCK.finditer(text)]


def executable(words: list[str]) -> list[str]:
    """A command with the programs of this environment, whatever stands on the PATH."""
    program, *rest = words
    if program == "backdrift":
        return [sys.executable, "-m", "backdrift", *rest]
    if program == "python":
        return [sys.executable, *rest]
    found = shutil.which(program, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        raise ValueError(f"{program}: there is no such program")
    return [found, *rest]
