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
            raise ValueError(f"path={path}: not a .npy file, whatever its name says")
    try:
        array = np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"path={path}: not a whole .npy file of numbers ({error})") from error
    return Samples.of(array, path)


def read_npz(path: Path) -> Samples:
    """Arrays by name: the samples `train`, `x` or the only one; perhaps `test`, `labels` and `test_labels`.

    Raises:
        ValueError: if the archive is damaged, or which array holds the samples cannot be told.
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
    """A table of numbers, a sample a row; a first row of names is left out. Commas, semicolons, tabs or blanks.

    Raises:
        ValueError: naming the row, if one has a word, a gap, or another length.
    """
    rows: list[list[float]] = []
    first = True
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            mark = next((mark for mark in ";\t," if mark in line), None)  # a comma beside ; is a decimal one
            fields = [field.strip().strip('"') for field in line.strip("\n").split(mark)]
            try:
                row = [float(field) for field in fields]
            except ValueError:
                if first and not any(_is_number(field) for field in fields):
                    first = False
                    continue
                wrong = next(field for field in fields if not _is_number(field))
                raise ValueError(f"path={path}: row {number} holds {wrong!r}, expected numbers such as 1.5") from None
            first = False
            if rows and len(row) != len(rows[0]):
                raise ValueError(f"path={path}: row {number} has {len(row)} values, those before {len(rows[0])}")
            rows.append(row)
    return Samples.of(np.array(rows, dtype=np.float64), path)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
