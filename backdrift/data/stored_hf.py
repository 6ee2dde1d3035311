"""Tables of the `datasets` library on disk, whose rows are read by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backdrift.data.layout import layout_of
from backdrift.data.pictures import Pictures

if TYPE_CHECKING:
    from datasets import Dataset

READ_AT_ONCE = 64
"""Batches that are read before the files are mapped into memory anew, which lets go of the pages that were read."""


class StoredTable:
    """A table of the `datasets` library, which maps it into memory. Its rows are samples.

    Args:
        path: a folder that `save_to_disk` wrote, a folder in the library's cache with .arrow files, a .parquet file, or
            a folder of them. The library makes an .arrow file of .parquet files once, in its cache.
        split: which of the splits, if the folder has several.
        columns: the column of images or arrays, or the columns of numbers, that make a sample. By default the one of
            images, else all of numbers but `labels` and `weights`.
        labels: the column of the classes, or None.
        weights: the column that says how much each sample counts in the loss, or None.
        layout: of arrays: where the channels are, see `layout.layout_of`.
        size: of images: see `read_image`.
        workers: threads that decode images.

    Raises:
        ValueError: if the library is not installed, the folder holds no table, there is no such split or column, or an
            argument does not concern the samples.
    """

    def __init__(
        self,
        path: Path,
        split: str = "train",
        columns: Sequence[str] | None = None,
        labels: str | None = None,
        weights: str | None = None,
        layout: str | None = None,
        size: int | None = None,
        workers: int = 4,
    ) -> None:
        if find_spec("datasets") is None:
            raise ValueError("data=hf: the package datasets is not installed; pip install 'backdrift[datasets]'")
        self.path, self.split = path, split
        self.table, self._read = _opened(path, split), 0
        given = {name: value for name, value in (("labels", labels), ("weights", weights)) if value is not None}
        for name, column in (*given.items(), *(("columns", each) for each in columns or ())):
            if column not in self.table.column_names:
                raise ValueError(f"{name}={column}: expected one of the columns {', '.join(self.table.column_names)}")
        if columns is not None and len(set(columns)) < len(columns):
            raise ValueError(f"columns={list(columns)}: expected different columns")
        self.chosen = _samples(self.table, columns, list(given.values()), path)
        self.labels = None if labels is None else np.asarray(self.table.with_format(None)[labels][:])
        self.weights = None if weights is None else np.asarray(self.table.with_format(None)[weights][:])
        self.labels_source = f"path={path}: column {labels}"
        self.class_names: Sequence[str] | None = getattr(self.table.features[labels], "names", None) if labels else None
        self.levels: int | None = None
        self.columns: Sequence[str] | None = None
        left = [name for name in self.table.column_names if name not in (*self.chosen, *given.values())]
        self.notes = [f"columns that are left out: {', '.join(left)}"] if left else []
        self.encoded: Dataset | None = None
        self.pictures: Pictures | None = None
        self._inspect(layout, size, workers)

    def _inspect(self, layout: str | None, size: int | None, workers: int) -> None:
        """Find out what a sample is."""
        first = self.chosen[0]
        if _is_image(self.table, first):
            if layout is not None:
                raise ValueError(f"layout={layout}: expected null for images, the column {first}")
            self.encoded = self._encoded()
            self.levels, self.pictures = 256, Pictures(self.path, self._image, size, workers)
            return
        if size is not None:
            raise ValueError(f"size={size}: expected null, since the column {first} holds no images")
        if len(self.chosen) > 1 or np.ndim(self._rows(np.array([0]), first)[0]) == 0:
            if layout is not None:
                raise ValueError(f"layout={layout}: expected null for columns of numbers")
            self.columns = self.chosen
            return
        one = self._rows(np.array([0]), first)
        self.layout = layout_of((len(self), *one.shape[1:]), one.dtype == np.uint8, layout)
        self.notes += [self.layout.note] if self.layout.note else []
        self.levels = 256 if one.dtype == np.uint8 and one.ndim in (3, 4) else None

    def __len__(self) -> int:
        return len(self.table)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The rows with these numbers: bytes, or float64.

        Raises:
            ValueError: if arrays in the column have several shapes, or an image cannot be read.
        """
        self._read += 1
        if self._read % READ_AT_ONCE == 0:
            self.table = _opened(self.path, self.split)
            self.encoded = None if self.pictures is None else self._encoded()
        if self.pictures is not None:
            return self.pictures.read(numbers)
        if self.columns is not None:
            return np.stack([self._rows(numbers, name).astype(np.float64) for name in self.chosen], axis=1)
        values = self.layout.apply(self._rows(numbers, self.chosen[0]))
        return values if values.dtype == np.uint8 else values.astype(np.float64)

    def _rows(self, numbers: np.ndarray, column: str) -> np.ndarray:
        rows = self.table.select_columns([column]).with_format("arrow")[numbers.tolist()][column]
        try:
            return _array(rows.combine_chunks())
        except ValueError as error:
            raise ValueError(f"path={self.path}: column {column}: {error}") from error

    def _encoded(self) -> Dataset:
        """The column of images, as the bytes of files."""
        from datasets import Image

        name = self.chosen[0]
        return self.table.select_columns([name]).cast_column(name, Image(decode=False))

    def _image(self, number: int) -> tuple[Path, bytes | None]:
        assert self.encoded is not None
        row = self.encoded[number][self.chosen[0]]
        if row is None:
            raise ValueError(f"path={self.path}: the image of row {number + 1} is missing")
        return Path(row["path"] or f"the image of row {number + 1}"), row["bytes"]


def _is_image(table: Dataset, column: str) -> bool:
    """Whether a column holds images."""
    from datasets import Image

    return isinstance(table.features[column], Image)


def _samples(table: Dataset, columns: Sequence[str] | None, others: list[str], path: Path) -> list[str]:
    """The columns that make a sample."""
    if columns is None:
        images = [name for name in table.column_names if _is_image(table, name)]
        if len(images) > 1:
            raise ValueError(f"path={path}: found the columns {', '.join(images)} of images; data.columns chooses one")
        columns = images or [name for name in table.column_names if name not in others and _is_number(table, name)]
    if not columns:
        raise ValueError(
            f"path={path}: expected a column of images or columns of numbers, found {', '.join(table.column_names)}; "
            "data.columns names others, such as one of arrays"
        )
    if len(columns) > 1 and not all(_is_number(table, name) for name in columns):
        raise ValueError(f"columns={list(columns)}: expected one column of images or arrays, or several of numbers")
    return list(columns)


def _array(values: Any) -> np.ndarray:
    """An array of Arrow, of numbers or of lists of numbers, as one of numpy with all its digits, `[n, ...]`.

    The library's own numpy format makes float32 of float64.

    Raises:
        ValueError: if lists have several lengths or are missing, or hold no numbers.
    """
    from pyarrow import ExtensionArray, compute, types

    shape = [len(values)]
    while isinstance(values, ExtensionArray):
        values = values.storage
    while types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        lengths = compute.min_max(compute.list_value_length(values)).as_py()
        if values.null_count or lengths["min"] != lengths["max"]:
            raise ValueError(f"expected arrays of one shape, got lengths from {lengths['min']} to {lengths['max']}")
        shape.append(lengths["min"])
        values = values.flatten()
    numbers = values.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"expected numbers, got {values.type}")
    return numbers.reshape(shape)


def _is_number(table: Dataset, column: str) -> bool:
    """Whether a column holds one number in each row."""
    kind = getattr(table.features[column], "dtype", "")
    return isinstance(kind, str) and kind.startswith(("int", "uint", "float", "bool"))


def _opened(path: Path, split: str) -> Dataset:
    """The table at a path. No row of it is read.

    Raises:
        ValueError: if there is none, or no such split.
    """
    from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

    found: Any
    try:
        if path.is_dir() and ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
            found = load_from_disk(str(path), keep_in_memory=False)
            if isinstance(found, DatasetDict):
                if split not in found:
                    raise ValueError(f"split={split}: expected one of {', '.join(found)}")
                return found[split]
            if split not in ("train", str(found.split)):
                raise ValueError(f"split={split}: expected train, since {path} holds one table without other splits")
            return found
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for kind in (".arrow", ".parquet"):
            all_of_them = [file for file in files if file.suffix == kind]
            ours = [file for file in all_of_them if _of_split(file, split) or (file == path and split == "train")]
            if all_of_them and not ours:
                raise ValueError(f"split={split}: {path} holds {all_of_them[0].name}, expected files of this split")
            if ours and kind == ".arrow":
                return concatenate_datasets([Dataset.from_file(str(file)) for file in ours])
            if ours:
                return Dataset.from_parquet([str(file) for file in ours], split=split, keep_in_memory=False)
    except (OSError, TypeError, KeyError) as error:
        raise ValueError(f"path={path}: not a table of the datasets library ({error})") from error
    raise ValueError(f"path={path}: expected a folder that save_to_disk wrote, or .arrow or .parquet files")


def _of_split(file: Path, split: str) -> bool:
    """Whether a file belongs to a split: its name has it as a word. Without a word that is a split it is of `train`."""
    words = set(file.stem.replace(".", "-").replace("_", "-").split("-"))
    return split in words or (split == "train" and not words & {"train", "test", "validation", "val"})
