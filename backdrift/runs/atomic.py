"""Files that appear whole or not at all, and one line that names the path where they cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of writing name the path. The system's own error, such as that of a full disk, often does not.

    Raises:
        OSError: in one line, for an `OSError` inside, or a `RuntimeError` that came of one, as torch raises it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(f"{path}: cannot be written ({cause.strerror or cause})") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, in place of the one that is there. The file is whole at every moment.

    Raises:
        OSError: naming the path, if it cannot be written. What is there stays, and nothing else is left.
    """
    hidden = path.with_name(f".{path.name}")
    with naming(path):
        try:
            hidden.write_text(text, encoding="utf-8")
            force(hidden)
            hidden.replace(path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise


def force(path: Path) -> None:
    """Have the system write a file or a folder to the disk now. Windows cannot do so for folders."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
