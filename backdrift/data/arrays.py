"""Arrays and tables: .npy, .npz and .csv."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from backdrift.data.samples import Samples


def read_npy(path: Path) -> Samples:
    """One array `[n, ...]`.

    Raises:
        ValueError: if the file is damaged or holds objects (which would need unpickling).
    """
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError(f"path={path}: not a .npy file, although its name says so")
    try:
        array = np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"path={path}: not a whole .npy file of numbers ({error})") from error
    return Samples.of(array, path)


def read_npz(path: Path) -> Samples:
    """Arrays by name: the samples are `train`, `x` or the only array; `test`, `labels` and `test_labels` may be there.

    Raises:
        ValueError: if the archive is damaged, or if no name tells which array holds the samples.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"path={path}: not a whole .npz archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name.lower(): archive[name] for name in archive.files}
    except (EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"path={path}: not a whole .npz archive of numbers ({error})") from error

    def take(*names: str) -> np.ndarray | None:
        return next((arrays[name] for name in names if name in arrays), None)

    values = take("train", "x_train", "x", "images", "data")
    if values is None and len(arrays) == 1:
        values = next(iter(arrays.values()))
    if values is None:
        found = ", ".join(arrays) or "nothing"
        raise ValueError(f"path={path}: expected an array named train or x in the archive, found {found}")
    test = take("test", "x_test")
    labels = take("train_labels", "y_train", "labels", "y")
    test_labels = take("test_labels", "y_test")
    if test is not None and (labels is None) != (test_labels is None):
        labels = test_labels = None
    return Samples.of(values, path, labels, test, None if test is None else test_labels)


def read_csv(path: Path) -> Samples:
    """A table of numbers, one sample in a row, between commas, semicolons, tabs or blanks.

    The first row may hold the names of the columns. Lines that begin with # are comments.

    Raises:
        ValueError: naming the row, if one has a word, a gap, or another length.
    """
    names: list[str] | None = None
    rows: list[list[float]] = []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = _fields(line)
            wrong = [field for field in fields if not _is_number(field)]
            if names is None and not rows and len(wrong) == len(fields):
                names, title = fields, line.strip().strip('"')
                continue
            if wrong:
                raise ValueError(f"path={path}: row {number} holds {wrong[0]!r}, expected numbers such as 1.5")
            if rows and len(fields) != len(rows[0]):
                raise ValueError(f"path={path}: row {number} has {len(fields)} values, those before {len(rows[0])}")
            rows.append([float(field) for field in fields])
    if names is not None and rows and len(rows[0]) == 1:
        names = [title]  # blanks in the name of a single column separate nothing
    if names is not None and rows and len(names) != len(rows[0]):
        raise ValueError(
            f"path={path}: the first row has {len(names)} names, the others {len(rows[0])} values; "
            "a line that is a comment begins with #"
        )
    columns = None if names is None else tuple(names)
    return Samples.of(np.array(rows, dtype=np.float64), path, columns=columns)


def _fields(line: str) -> list[str]:
    mark = next((mark for mark in ";\t," if mark in line), None)  # a comma beside ; is a decimal one
    return [field.strip().strip('"') for field in line.strip("\n").split(mark)]


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
