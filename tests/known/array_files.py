"""Arrays: .npy, .npz and IDX files of every type, order and damage."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from data_files import DataFile, file_of

G = np.random.default_rng(1)
X = G.normal(size=(12, 3))
PICTURES = G.integers(0, 256, size=(12, 5, 7), dtype=np.uint8)
COLOURS = G.integers(0, 256, size=(12, 5, 7, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def bytes_of(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def header(shape: str, dtype: str = "'<f8'") -> bytes:
    """A .npy file whose header is written by hand."""
    said = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said.encode() + bytes(64)


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "t.npz", **arrays)
        return folder / "t.npz"

    return write


WHOLE = {name: np.arange(24).reshape(12, 2).astype(name) for name in ("i1", "i2", "i4", "i8", "u2", "u4", "u8", ">i4")}
TYPES: dict[str, np.ndarray] = {
    **{name: X.astype(name) for name in ("f2", "f4", "f8", ">f4", ">f8", "longdouble")},
    **WHOLE,
    "bool": X > 0,
    "u1": (X > 0).astype(np.uint8) + np.arange(3, dtype=np.uint8),
    "Fortran order": np.asfortranarray(X),
    "subnormals": X * 1e-310 + X,
}

NPY = [
    *(DataFile(f".npy of {name}", file_of("t.npy", bytes_of(a)), a.astype(np.float64)) for name, a in TYPES.items()),
    DataFile(".npy, version 2", file_of("t.npy", bytes_of(X, version=(2, 0))), X),
    DataFile(".npy, version 3", file_of("t.npy", bytes_of(X, version=(3, 0))), X),
    DataFile(".npy in capital letters", file_of("T.NPY", bytes_of(X)), X),
    DataFile(".npy of one axis", file_of("t.npy", bytes_of(X[:, 0])), X[:, :1]),
    DataFile("grey pictures", file_of("t.npy", bytes_of(PICTURES)), PICTURES[:, None]),
    DataFile("pictures, channels last", file_of("t.npy", bytes_of(COLOURS)), np.moveaxis(COLOURS, -1, 1)),
    DataFile(
        "pictures, channels first", file_of("t.npy", bytes_of(np.moveaxis(COLOURS, -1, 1))), np.moveaxis(COLOURS, -1, 1)
    ),
    DataFile("pictures of floats", file_of("t.npy", bytes_of(COLOURS / 255.0)), np.moveaxis(COLOURS / 255.0, -1, 1)),
    DataFile("grey and alpha", file_of("t.npy", bytes_of(COLOURS[..., :2])), np.moveaxis(COLOURS[..., :2], -1, 1)),
    DataFile("series", file_of("t.npy", bytes_of(X[:, None])), X[:, None]),
    DataFile("volumes", file_of("t.npy", bytes_of(G.normal(size=(12, 1, 4, 5, 6)))), None, {"layout": "rows"}),
    DataFile(
        "layout that is told",
        file_of("t.npy", bytes_of(X[:, None])),
        np.moveaxis(X[:, None], -1, 1),
        {"layout": "channels_last"},
    ),
    DataFile(".npy of one row", file_of("t.npy", bytes_of(X[:1])), X[:1], usable=False),
    DataFile("constant column", file_of("t.npy", bytes_of(X * [1, 1, 0])), X * [1, 1, 0], usable=False),
    *(
        DataFile(f".npy: {name}", file_of("t.npy", content), None)
        for name, content in [
            ("complex numbers", bytes_of(X + 1j)),
            ("words", bytes_of(X.astype(str))),
            ("bytes as words", bytes_of(X.astype("S8"))),
            ("days", bytes_of(np.arange(12).astype("M8[D]"))),
            ("durations", bytes_of(np.arange(12).astype("m8[s]"))),
            ("fields", bytes_of(np.zeros(12, dtype=[("a", "f8"), ("b", "f4")]))),
            ("objects", bytes_of(X.astype(object), allow_pickle=True)),
            ("a pickle", pickle.dumps(X)),
            ("no axis", bytes_of(np.array(1.5))),
            ("no rows", bytes_of(X[:0])),
            ("no columns", bytes_of(X[:, :0])),
            ("NaN", bytes_of(np.where(X > 1, np.nan, X))),
            ("inf", bytes_of(np.where(X > 1, np.inf, X))),
            ("beyond 2^53", bytes_of(np.arange(12) + 2**60)),
            ("beyond 2^63", bytes_of(np.arange(12, dtype="u8") + 2**63)),
            ("nothing", b""),
            ("text", b"1,2,3\n"),
            ("cut values", bytes_of(X)[:-9]),
            ("cut header", bytes_of(X)[:40]),
            ("magic alone", b"\x93NUMPY"),
            ("unknown version", b"\x93NUMPY\x09\x00" + bytes_of(X)[8:]),
            ("shape of 10^12 rows", header("(1000000000000, 3)")),
            ("shape of 10^30 rows", header("(1000000000000000000000000000000,)")),
            ("negative shape", header("(-5, 3)")),
            ("shape of words", header("('a',)")),
            ("code in the header", header("__import__('os').getcwd()")),
            ("unknown type", header("(4,)", "'<q99'")),
            ("an object in the header", header("(4,)", "'|O'")),
        ]
    ),
]


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-60])
    return path


def _flipped(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    return path


def _zip(folder: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(folder / "t.npz", "w") as archive:
        archive.writestr(name, content)
    return folder / "t.npz"


NPZ = [
    DataFile("archive of one array", npz(weights=X), X),
    DataFile("x and y", npz(x=X, y=LABELS), X, labels=LABELS.tolist()),
    DataFile("classes by words", npz(x=X, y=np.array(list("abc"))[LABELS]), X, labels=LABELS.tolist()),
    DataFile("classes 3, 7 and 9", npz(x=X, y=np.array([3, 7, 9])[LABELS]), X, labels=LABELS.tolist()),
    DataFile("classes as floats", npz(x=X, y=LABELS.astype(float)), X, labels=LABELS.tolist()),
    DataFile("classes in a column", npz(x=X, y=LABELS[:, None]), X, labels=LABELS.tolist()),
    DataFile("train and test", npz(train=X, test=X + 1), X),
    DataFile("names in capital letters", npz(X_train=X, X_test=X + 1), X),
    DataFile("columns", npz(x=X, columns=np.array(["a", "b", "c"])), X),
    DataFile("validation set", npz(train=X, test=X + 1, val=X + 2), X),
    *(
        DataFile(f".npz: {name}", write, None)
        for name, write in [
            ("no array", npz()),
            ("labels that are NaN", npz(x=X, y=np.where(LABELS == 1, np.nan, LABELS))),
            ("labels that are fractions", npz(x=X, y=LABELS + 0.5)),
            ("an empty label", npz(x=X, y=np.array(["a", "", "c"])[LABELS])),
            ("too few labels", npz(x=X, y=LABELS[:5])),
            ("labels of two columns", npz(x=X, y=np.stack([LABELS, LABELS], 1))),
            ("labels of training only", npz(train=X, test=X + 1, y=LABELS)),
            ("labels of test only", npz(train=X, test=X + 1, y_test=LABELS)),
            ("a test label that is new", npz(train=X, test=X, labels=LABELS, test_labels=LABELS + 1)),
            ("labels alone", npz(y=LABELS, class_names=np.array(["a", "b", "c"]))),
            ("an array nobody knows", npz(x=X, mask=X > 0)),
            ("two names for one thing", npz(x=X, train=X)),
            ("objects", npz(x=X.astype(object))),
            ("words", npz(x=X.astype(str))),
            ("shapes that differ", npz(train=X, test=X[:, :2])),
            ("too few names of columns", npz(x=X, columns=np.array(["a", "b"]))),
            ("names of classes without labels", npz(x=X, class_names=np.array(["a"]))),
            ("too few names of classes", npz(x=X, y=LABELS, class_names=np.array(["a"]))),
            ("a .npy file", file_of("t.npz", bytes_of(X))),
            ("a cut archive", lambda folder: _cut(npz(x=X)(folder))),
            ("flipped bits", lambda folder: _flipped(npz(x=X)(folder))),
            ("text", file_of("t.npz", "1,2,3\n")),
            ("another zip file", lambda folder: _zip(folder, "notes.txt", b"hello")),
            ("a cut member", lambda folder: _zip(folder, "x.npy", bytes_of(X)[:-9])),
            ("a member of 10^12 rows", lambda folder: _zip(folder, "x.npy", header("(1000000000000, 3)"))),
        ]
    ),
]

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array: np.ndarray, code: int | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    head = bytes([0, 0, CODES[kind] if code is None else code, len(shape)])
    return head + struct.pack(f">{len(shape)}I", *shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def _mnist(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (folder / name.replace("_", "-")).write_bytes(content)
    return folder


IDX = [
    DataFile("IDX of bytes", file_of("t.idx", idx(PICTURES)), PICTURES[:, None]),
    *(
        DataFile(f"IDX of {k}", file_of("t.idx", idx(WHOLE["i4"].astype(k))), WHOLE["i4"] * 1.0)
        for k in ("i1", "i2", "i4", "f4", "f8")
    ),
    DataFile("compressed IDX", file_of("t-idx3-ubyte.gz", gzip.compress(idx(PICTURES))), PICTURES[:, None]),
    DataFile("IDX without suffix", file_of("pictures", idx(PICTURES)), PICTURES[:, None]),
    DataFile(
        "folder of IDX files",
        lambda folder: _mnist(
            folder,
            train_images_idx3_ubyte=idx(PICTURES),
            train_labels_idx1_ubyte=idx(LABELS.astype("u1")),
            t10k_images_idx3_ubyte=idx(PICTURES[:4]),
            t10k_labels_idx1_ubyte=idx(LABELS[:4].astype("u1")),
        ),
        PICTURES[:, None],
        labels=LABELS.tolist(),
    ),
    *(
        DataFile(f"IDX: {name}", write, None)
        for name, write in [
            ("cut", file_of("t.idx", idx(PICTURES)[:-3])),
            ("bytes behind", file_of("t.idx", idx(PICTURES) + b"0")),
            ("shape of 2^32 rows", file_of("t.idx", idx(PICTURES, shape=(2**32 - 1, 5, 7)))),
            ("unknown type", file_of("t.idx", idx(PICTURES, code=99))),
            ("no axes", file_of("t.idx", bytes([0, 0, 8, 0, 1, 2, 3, 4]))),
            ("no rows", file_of("t.idx", idx(PICTURES[:0]))),
            ("head alone", file_of("t.idx", idx(PICTURES)[:6])),
            ("NaN", file_of("t.idx", idx(np.where(X > 1, np.nan, X)))),
            ("labels alone", lambda folder: _mnist(folder, train_labels_idx1_ubyte=idx(LABELS.astype("u1")))),
            (
                "two kinds of pictures",
                lambda folder: _mnist(folder, train_images_idx3_ubyte=idx(PICTURES), more_images_ubyte=idx(PICTURES)),
            ),
            (
                "labels of training only",
                lambda folder: _mnist(
                    folder,
                    train_images_ubyte=idx(PICTURES),
                    train_labels_ubyte=idx(LABELS.astype("u1")),
                    t10k_images_ubyte=idx(PICTURES),
                ),
            ),
            (
                "too few labels",
                lambda folder: _mnist(
                    folder, train_images_ubyte=idx(PICTURES), train_labels_ubyte=idx(LABELS[:5].astype("u1"))
                ),
            ),
        ]
    ),
]

CASES = [*NPY, *NPZ, *IDX]
