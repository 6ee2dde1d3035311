"""What a data file is, for the tests that read many of them: how it is written, and what has to be read from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class DataFile(NamedTuple):
    """A file or folder that someone may take for a data set.

    Attributes:
        name: what it is.
        write: writes it into an empty folder, and returns its path.
        expected: the samples that were written, as they have to be read, in the order of the file; None if the file has
            to be refused.
        options: of `Files`.
        usable: whether `Files` makes a data set of the samples. It refuses what has no density, such as a single row.
        labels: the classes of the samples, or None.
    """

    name: str
    write: Callable[[Path], Path]
    expected: np.ndarray | None
    options: Mapping[str, Any] = MappingProxyType({})
    usable: bool = True
    labels: list[int] | None = None


def file_of(name: str, content: bytes | str) -> Callable[[Path], Path]:
    """Writes one file."""

    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
