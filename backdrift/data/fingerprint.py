"""Whether the files of a data set are still those that were read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fingerprint:
    """Names, sizes and modification times of files, in short.

    Equal fingerprints mean the same files. Different ones mean files that were changed, copied or renamed: a copy has
    another modification time, so that a difference alone does not tell that the samples are others.

    Attributes:
        files: how many there are.
        bytes: the sum of their sizes.
        sha256: the hash of a line for each file, with its name below the folder, its size in bytes and its modification
            time in nanoseconds.
    """

    files: int
    bytes: int
    sha256: str


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of a file, or of all files below a folder except hidden ones."""
    found = visible_files(path) if path.is_dir() else [path]
    folder = path if path.is_dir() else path.parent
    known = [(file.relative_to(folder).as_posix(), file.stat()) for file in found]
    lines = "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in known)
    return Fingerprint(len(known), sum(stat.st_size for _, stat in known), hashlib.sha256(lines.encode()).hexdigest())


BY_SYSTEMS = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini"}
"""Files and folders that systems and file browsers leave beside a user's own."""


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, without hidden ones and those in hidden folders."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file in found if not any(map(is_hidden, file.relative_to(folder).parts))]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is not the user's: it begins with a dot, or systems make it."""
    return name.startswith(".") or name in BY_SYSTEMS
