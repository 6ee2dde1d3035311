"""IDX, the file format of MNIST and its relatives."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from backdrift.data.fingerprint import visible_files
from backdrift.data.samples import Samples

DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file, compressed or not, in the machine's byte order.

    The file begins with two zero bytes, one byte for the type and one for the number of axes. The length of each axis
    follows as a big-endian uint32, then the values (LeCun et al. 1998, the MNIST pages).

    Raises:
        ValueError: if the file is not IDX, or is cut short.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"path={path}: damaged gzip file ({error})") from error
    if len(content) < 8 or content[:2] != b"\0\0" or content[2] not in DTYPES or content[3] == 0:
        raise ValueError(
            f"path={path}: not a file we can read; expected IDX (MNIST's format), .npy, .npz, .csv or a folder of "
            "images"
        )
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content, ">u4", content[3], 4).tolist()) if len(content) >= start else ()
    dtype = np.dtype(DTYPES[content[2]])
    if not shape or len(content) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"path={path}: damaged IDX file: its head announces shape {list(shape)}, "
            f"but {max(len(content) - start, 0)} bytes follow"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_idx_file(path: Path, layout: str | None = None) -> Samples:
    """The samples of one IDX file, with its channels where `layout.layout_of` says."""
    return Samples.of(read_idx(path), path, layout=layout)


def read_idx_folder(folder: Path, layout: str | None = None) -> Samples:
    """Images and labels of a folder in MNIST's naming: `train-images…`, `t10k-…` or `test-…`.

    Raises:
        ValueError: if there are no training images, or several, or if only one of the two sets has labels.
    """
    files = visible_files(folder)

    def find(*words: str, without: tuple[str, ...] = ()) -> Path | None:
        # MNIST's files often lie beside their own compressed copies: names are compared without .gz.
        names = {file.with_suffix("") if file.suffix == ".gz" else file: file for file in files}
        hits = [
            file
            for name, file in names.items()
            if any(word in name.name for word in words) and not any(word in name.name for word in without)
        ]
        if len(hits) > 1:
            listed = ", ".join(hit.name for hit in hits)
            raise ValueError(f"path={folder}: the folder holds several files of one kind: {listed}; give one of them")
        return hits[0] if hits else None

    held = ("t10k", "test")
    images = find("images", without=held)
    if images is None:
        raise ValueError(f"path={folder}: found no file named …images… for training; give one file instead")
    labels, every = find("labels", without=held), files
    files = [file for file in files if any(word in file.name for word in held)]
    test, test_labels = (find("images"), find("labels")) if files else (None, None)
    used = [file for file in (images, labels, test, test_labels) if file is not None]
    read = {file.name.removesuffix(".gz") for file in used}
    unused = [file.name for file in every if file.name.removesuffix(".gz") not in read]
    return Samples.of(
        read_idx(images),
        folder,
        None if labels is None else read_idx(labels),
        None if test is None else read_idx(test),
        None if test_labels is None else read_idx(test_labels),
        layout=layout,
        notes=[f"files that are left out: {len(unused)}, the first is {unused[0]}"] if unused else [],
    )
