"""The command line that is being carried out, as run folders and results keep it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def command_line() -> str:
    """The command line, in one line that can be pasted into a shell."""
    return " ".join(shlex.join(["backdrift", *sys.argv[1:]]).splitlines())


@contextmanager
def as_command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Take these arguments for the command line: those of one job of a sweep, or of a call from Python."""
    before = sys.argv
    sys.argv = [before[0] if before else "backdrift", *arguments]
    try:
        yield
    finally:
        sys.argv = before
