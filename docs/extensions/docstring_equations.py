"""Prepares our docstrings for Sphinx: equations in plain text stay as they are written.

Docstrings are meant to be read in an editor, so most equations stand there as indented text below a sentence. To
reStructuredText that is a quotation, in which |x| and x* are markup. Here such a block becomes a literal block, and
bars and stars in sentences are escaped.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SECTION = re.compile(r"^(Args|Main arguments|Other arguments|Returns|Raises|Attributes|Examples?|Yields|Notes?):$")
LETTER = re.compile(r"^(\s*(?:[\w, ]+: )?[A-Za-z])(?=\.(?: |$))")
"""A letter and a full stop, as in "scale: w.", which would begin a list whose entries are counted by letters."""

PROTECTED = re.compile(r"(``?[^`]+``?|\*\*[^*\s][^*]*\*\*)")


def indent(line: str) -> int:
    """The number of blanks at the beginning of a line."""
    return len(line) - len(line.lstrip())


def escaped(line: str) -> str:
    """A line of prose in which bars, stars and letters are no markup. Code between backticks stays as it is."""
    parts = PROTECTED.split(LETTER.sub(r"\1\\", line))
    return "".join(part if k % 2 else re.sub(r"(?<!\\)([|*])", r"\\\1", part) for k, part in enumerate(parts))


def is_equation(text: str, following: str) -> bool:
    """Whether the deeper lines after a line are an equation, and not a section, a list, a directive or a session."""
    return not (SECTION.match(text) or text.startswith("- ") or following.strip().startswith(("- ", ".. ", ">>>")))


def prepare(lines: list[str]) -> list[str]:
    """The lines of a docstring, with literal blocks where equations are, and bars and stars escaped."""
    made: list[str] = []
    literal: int | None = None  # the indentation of the line that began a literal block or a directive
    for k, line in enumerate(lines):
        text = line.strip()
        if literal is not None and text and indent(line) <= literal:
            literal = None
        following = next((later for later in lines[k + 1 :] if later.strip()), "")
        blank_after = k + 1 < len(lines) and not lines[k + 1].strip()
        if literal is not None or not text:
            made.append(line)
        elif text.startswith((".. ", ">>>", "=====", "...")) or text.endswith("::"):
            literal = indent(line) if text.startswith(".. ") or text.endswith("::") else None
            made.append(line)
        elif blank_after and indent(following) > indent(line) and is_equation(text, following):
            made.extend([escaped(line) + ":"] if text.endswith(":") else [escaped(line), "", " " * indent(line) + "::"])
            literal = indent(line)
        else:
            made.append(escaped(line))
    return made


def process(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Change the docstring in place, as Sphinx asks for."""
    lines[:] = prepare(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Come before napoleon, which turns sections into fields."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
