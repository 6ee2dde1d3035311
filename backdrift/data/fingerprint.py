"""Whether the files of a data set are still those that were read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

KINDS = ("quick", "full")
"""What the user may ask for: names, sizes and times alone, or the contents as well."""

CHUNK = 2**20
"""Bytes of a file that are in memory at once."""


@dataclass(frozen=True)
class Fingerprint:
    """Names, sizes and modification times of files, in short, and perhaps their contents.

    Equal fingerprints mean the same files. Where `sha256` differs, files were changed, copied, touched or renamed: a
    copy has another modification time, so that this difference alone does not tell that the samples are others. Where
    `contents` differ, the samples do.

    Attributes:
        files: how many there are.
        bytes: the sum of their sizes.
        sha256: the hash of a line for each file, with its name below the folder, its size in bytes and its modification
            time in nanoseconds.
        contents: the hash of a line for each file, with its name below the folder and the hash of its bytes; of a
            single file the hash of its bytes alone. None where the contents were not asked for.
    """

    files: int
    bytes: int
    sha256: str
    contents: str | None = None

    def beside(self, path: Path) -> Fingerprint:
        """That of these files and of another file or folder, such as the conditions of the samples."""
        other = fingerprint(path, "quick" if self.contents is None else "full")
        contents = None if other.contents is None else _joined(str(self.contents), other.contents)
        files, size = self.files + other.files, self.bytes + other.bytes
        return Fingerprint(files, size, _joined(self.sha256, other.sha256), contents)


def _joined(*hashes: str) -> str:
    """The hash of a line for each hash."""
    return hashlib.sha256("".join(f"{each}\n" for each in hashes).encode()).hexdigest()


def fingerprint(path: Path, kind: str = "quick") -> Fingerprint:
    """The fingerprint of a file, or of all files below a folder except hidden ones.

    Args:
        path: the file or folder.
        kind: "quick", or "full" to read the contents as well, of all files, a piece at a time.

    Raises:
        ValueError: if `kind` is neither.
    """
    if kind not in KINDS:
        raise ValueError(f"fingerprint={kind}: expected {' or '.join(KINDS)}")
    found = visible_files(path) if path.is_dir() else [path]
    folder = path if path.is_dir() else path.parent
    known = [(file.relative_to(folder).as_posix(), file.stat()) for file in found]
    lines = "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in known)
    return Fingerprint(
        files=len(known),
        bytes=sum(stat.st_size for _, stat in known),
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
        contents=_contents(path, found) if kind == "full" else None,
    )


def _contents(path: Path, files: list[Path]) -> str:
    if not path.is_dir():
        return sha256_of(path)
    lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits. A piece of the file is in memory at a time."""
    total = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(CHUNK):
            total.update(piece)
    return total.hexdigest()


BY_SYSTEMS = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini"}
"""Files and folders that systems and file browsers leave beside a user's own."""


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, without hidden ones and those in hidden folders."""
    found: list[Path] = []
    # `rglob` asks the system about each file and sorts paths, which takes ten seconds for 100,000 files.
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_hidden(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            found += visible_files(Path(entry.path))
        elif entry.is_file():
            found.append(Path(entry.path))
    return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is not the user's: it begins with a dot, or systems make it."""
    return name.startswith(".") or name in BY_SYSTEMS
