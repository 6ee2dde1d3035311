"""Folders of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backdrift.data.fingerprint import is_hidden, visible_files
from backdrift.data.image_file import read_image
from backdrift.data.samples import Samples
from backdrift.sde.checks import require_integer

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
"""What the folders of a data set that is split already are called."""


def read_images(folder: Path, size: int | None = None) -> Samples:
    """Images of one size as bytes `[n, channels, height, width]`: grey if all of them are grey, otherwise RGB.

    The folders `train` and `test` hold the two splits. `val` is the test set if there is no `test`, and is left out
    otherwise. If the images lie in subfolders of the folder, or of its splits, a subfolder is a class.

    Args:
        folder: where the images are.
        size: see `read_image`; by default all images have to be of one size.

    Raises:
        ValueError: naming the file or folder, if an image cannot be read, has another size or more than 8 bits a
            channel, or if images lie beside the folders of classes or splits.
    """
    if size is not None:
        require_integer("size", size, 1, 65536)
    files = visible_files(folder)
    images = [file for file in files if file.suffix.lower() in IMAGES]
    notes = _left_out(folder, files, images)
    parts = _splits(folder, images, notes)
    counted: Counter[str] = Counter()
    files = [file for part in parts.values() for file in part]
    pictures = _read(folder, files, size, counted)
    notes += [f"{what}: {count}" for what, count in counted.items()]
    n = len(parts["train"])
    train, test = pictures[:n], pictures[n:]
    labels = _labels(folder, parts)
    return Samples.of(
        train,
        folder,
        labels.get("train"),
        test if len(test) else None,
        labels.get("test"),
        layout="channels_first",
        notes=notes,
        places=[file.relative_to(folder).as_posix() for file in files],
    )


def _left_out(folder: Path, files: Sequence[Path], images: Sequence[Path]) -> list[str]:
    """What is no image or holds none, in words for the user."""
    notes = []
    others = [file for file in files if file.suffix.lower() not in IMAGES]
    if others:
        first = others[0].relative_to(folder)
        notes.append(f"files that are no images and are left out: {len(others)}, the first is {first}")
    broken = [path for path in sorted(folder.rglob("*")) if path.is_symlink() and not path.exists()]
    if broken:
        first = broken[0].relative_to(folder)
        notes.append(f"links to files that are not there and are left out: {len(broken)}, the first is {first}")
    full = {parent for file in images for parent in file.parents}
    empty = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_dir() and path not in full and not any(map(is_hidden, path.relative_to(folder).parts))
    ]
    if empty:
        first = empty[0].relative_to(folder)
        notes.append(f"folders without images that are left out: {len(empty)}, the first is {first}")
    return notes


def _splits(folder: Path, images: Sequence[Path], notes: list[str]) -> dict[str, list[Path]]:
    """The images of the training set and of the test set, which may be empty."""
    inside = [file for file in images if file.parent != folder]
    tops = {file.relative_to(folder).parts[0] for file in inside}
    meant = {top: SPLITS.get(top.lower(), "") for top in tops}
    if "train" not in meant.values():
        if inside and all(meant.values()):
            raise ValueError(f"path={folder}: found {', '.join(sorted(tops))} in the folder, but no folder train")
        return {"train": list(images), "test": []}
    strange = [file for file in images if file.parent == folder or not meant[file.relative_to(folder).parts[0]]]
    if strange:
        raise ValueError(
            f"path={folder}: {strange[0].relative_to(folder)} lies beside the folder train; expected all images in "
            "train, test and val"
        )
    if len(set(meant.values())) < len(meant):
        raise ValueError(f"path={folder}: two of the folders {', '.join(sorted(tops))} mean the same; keep one")
    parts: dict[str, list[Path]] = {split: [] for split in ("train", "test", "validation")}
    for file in images:
        parts[meant[file.relative_to(folder).parts[0]]].append(file)
    validation = parts.pop("validation")
    if validation and parts["test"]:
        notes.append(f"images for validation that are left out: {len(validation)}")
    elif validation:
        parts["test"] = validation
        notes.append(f"images for validation that serve as the test set: {len(validation)}")
    return parts


def _labels(folder: Path, parts: dict[str, list[Path]]) -> dict[str, np.ndarray]:
    """The class of each image of each split: the name of the subfolder of the folder, or of its split."""
    labels = {}
    tops = {names[0].lower() for file in parts["train"] if (names := _names(folder, file))}
    depth = 1 if tops and {SPLITS.get(top) for top in tops} == {"train"} else 0
    for split, files in parts.items():
        if not files:
            continue
        classes = [_names(folder, file)[depth : depth + 1] for file in files]
        bare = [file for file, names in zip(files, classes, strict=True) if not names]
        if bare and len(bare) < len(files):
            raise ValueError(
                f"path={folder}: {bare[0].relative_to(folder)} lies beside the folders of classes; move it into one, "
                "or all images into one folder"
            )
        if not bare:
            labels[split] = np.array([names[0] for names in classes])
    one = {str(name) for names in labels.values() for name in names}
    return labels if len(one) > 1 else {}


def classes_of_folders(folder: Path, files: Sequence[Path]) -> np.ndarray | None:
    """The name of the subfolder of each image, which is its class; None if there are no two classes.

    Raises:
        ValueError: if images lie beside the folders of classes.
    """
    return _labels(folder, {"train": list(files)}).get("train")


def _names(folder: Path, file: Path) -> tuple[str, ...]:
    """The names of the folders between `folder` and a file."""
    return file.relative_to(folder).parts[:-1]


def _read(folder: Path, files: Sequence[Path], size: int | None, notes: Counter[str]) -> np.ndarray:
    """The bytes of images of one size, `[n, channels, height, width]` with one channel or three."""
    pictures: list[np.ndarray] = []
    for file in files:
        try:
            picture = read_image(file, size, notes)
        except ValueError as error:
            raise ValueError(f"path={folder}: {error}") from error
        if pictures and picture.shape[:2] != pictures[0].shape[:2]:
            (height, width), (other, wide) = pictures[0].shape[:2], picture.shape[:2]
            raise ValueError(
                f"path={folder}: the images are of mixed sizes: {files[0].name} is {width}x{height}, "
                f"{file.name} is {wide}x{other}; data.size={min(height, width, wide, other)} scales and crops them"
            )
        pictures.append(picture)
    grey = [picture.ndim == 2 for picture in pictures]
    if any(grey) and not all(grey):
        notes["grey images among coloured ones, which are taken as coloured"] = sum(grey)
        pictures = [np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture for picture in pictures]
    stacked = np.stack(pictures)
    return stacked[:, None] if stacked.ndim == 3 else np.moveaxis(stacked, -1, 1)
