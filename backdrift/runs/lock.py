"""Locks between processes: of two that want to write the same thing, one waits or is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which is made where it does not exist. A process that dies lets go of its locks.

    Windows has no such locks in Python's standard library: there the file is made and nothing is held.

    Args:
        path: the lock file.
        wait: whether to wait for another process that holds it.

    Raises:
        BlockingIOError: if another process holds it and `wait` is False.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.name != "nt":
            import fcntl  # not there on Windows

            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)
