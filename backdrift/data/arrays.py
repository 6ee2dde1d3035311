"""Arrays: .npy and .npz."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from backdrift.data.samples import Samples

NAMES = {
    "train": ("train", "x_train", "train_x", "train_images", "x", "images", "data"),
    "test": ("test", "x_test", "test_x", "test_images"),
    "labels": ("labels", "train_labels", "y_train", "y"),
    "test_labels": ("test_labels", "y_test"),
    "columns": ("columns",),
    "class_names": ("class_names", "classes"),
    "origin": ("provenance",),
}
"""What an archive may hold, and the names it goes by, in small letters."""

OF_CONDITIONS = ("condition", "condition_columns", "condition_row")
"""What an archive of samples that were drawn given conditions holds besides."""

DAMAGED = (EOFError, OSError, ValueError, MemoryError, OverflowError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for a file that is damaged, or whose header announces more numbers than there can be."""


def told(error: Exception) -> str:
    """What NumPy says of a damaged file, without its advice to unpickle what may be code."""
    said = str(error)
    return "it holds no array of numbers" if "pickle" in said or "Python objects" in said else said


def load_npy(path: Path, key: str = "path", mapped: bool = False) -> np.ndarray:
    """The array of a .npy file.

    Args:
        path: the file.
        key: the argument that named it, for messages.
        mapped: whether nothing of the array is read yet.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{key}={path}: there is no such file")
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except DAMAGED as error:
        raise ValueError(f"{key}={path}: not a whole .npy file of numbers ({told(error)})") from error


def read_npy(path: Path, layout: str | None = None, missing: bool = False) -> Samples:
    """One array `[n, ...]`, with its channels where `layout.layout_of` says. NaN is refused, unless it may be missing.

    Raises:
        ValueError: if the file is damaged or holds objects (which would need unpickling).
    """
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError(f"path={path}: not a .npy file, although its name says so")
    return Samples.of(load_npy(path), path, layout=layout, missing=missing)


def read_npz(path: Path, layout: str | None = None, missing: bool = False) -> Samples:
    """Arrays by the names in `NAMES`. An archive of one array holds the samples, whatever its name is.

    Arrays for validation, whose name has the word val, are left out with a note.

    Raises:
        ValueError: if the archive is damaged, an array has another name or two have the same meaning, no name tells
            which array holds the samples, or labels have no samples.
    """
    arrays = _load(path)
    validation = [name for name in arrays if {"val", "valid", "validation"} & set(name.split("_"))]
    used = {name: array for name, array in arrays.items() if name not in validation}
    notes = [f"{', '.join(validation)} in the archive are for validation and are left out"] if validation else []
    given = [name for name in OF_CONDITIONS if name in used]
    used = {name: array for name, array in used.items() if name not in given}
    if given:
        notes.append(f"{', '.join(given)} in the archive say what samples were drawn given, and are left out")
    roles = {role: [name for name in names if name in used] for role, names in NAMES.items()}
    known = [name for names in roles.values() for name in names]
    if len(used) == 1 and not known:
        roles["train"] = list(used)
        known = list(used)
    strange = [name for name in used if name not in known]
    if not roles["train"] or strange:
        found = ", ".join(arrays) or "nothing"
        meant = f"{strange[0]} has no meaning here" if strange and roles["train"] else f"found {found}"
        raise ValueError(
            f"path={path}: expected an array named train or x in the archive, and perhaps test, labels, test_labels, "
            f"columns and class_names; {meant}"
        )
    for role, names in roles.items():
        if len(names) > 1:
            raise ValueError(f"path={path}: {' and '.join(names)} in the archive both stand for {role}; keep one")

    def take(role: str) -> np.ndarray | None:
        return used[roles[role][0]] if roles[role] else None

    test, labels, test_labels = take("test"), take("labels"), take("test_labels")
    if test_labels is not None and test is None:
        raise ValueError(f"path={path}: the archive holds labels of test samples, but no test samples")
    columns, class_names = (_words(take(role), role, path) for role in ("columns", "class_names"))
    if class_names is not None and labels is None:
        raise ValueError(f"path={path}: the archive holds names of classes, but no labels")
    return Samples.of(
        used[roles["train"][0]],
        path,
        labels,
        test,
        test_labels,
        columns=columns,
        class_names=class_names,
        layout=layout,
        notes=notes,
        missing=missing,
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive by their names in small letters."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"path={path}: not a whole .npz archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name.lower(): archive[name] for name in archive.files}
            names = archive.files
    except DAMAGED as error:
        raise ValueError(f"path={path}: not a whole .npz archive of numbers ({told(error)})") from error
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise ValueError(f"path={path}: {strange[0]} in the archive is no array; take it out")
    if len(arrays) < len(names):
        raise ValueError(f"path={path}: two arrays of the archive differ in capital letters only: {', '.join(names)}")
    return arrays


def _words(array: np.ndarray | None, role: str, path: Path) -> tuple[str, ...] | None:
    if array is None:
        return None
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise ValueError(f"path={path}: {role}: expected words [k], got {list(array.shape)} of dtype {array.dtype}")
    return tuple((np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array).tolist())
