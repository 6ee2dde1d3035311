"""The user's own data: IDX files, arrays and tables, folders of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from backdrift.data.arrays import read_npy, read_npz
from backdrift.data.checks import check_exists
from backdrift.data.dataset import Data
from backdrift.data.fingerprint import fingerprint as fingerprint_of
from backdrift.data.fingerprint import visible_files
from backdrift.data.idx import read_idx_file, read_idx_folder
from backdrift.data.images import IMAGES, read_images
from backdrift.data.record import Record
from backdrift.data.samples import Samples
from backdrift.data.splits import split
from backdrift.data.tables import read_table
from backdrift.data.units import MOST_LEVELS
from backdrift.data.weights import loss_weights, read_weights
from backdrift.sde.arguments import checked
from backdrift.sde.value_types import Filled, Range, Seed

TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


class Files(Data):
    """The samples that `path` holds. Its name and content tell how they are read:

    - an IDX file (MNIST's format, also `.gz`), or a folder of IDX files (`train-…`, `t10k-…`, with labels);
    - a `.npy` array, or a `.npz` archive (`train` or `x`, and perhaps `test` and `labels`);
    - a `.csv`, `.tsv` or `.txt` table of numbers, also `.gz`;
    - a folder of images (a subfolder for each class, if there are classes; `train` and `test` if they are split).

    Arrays `[n, d]` are vectors, `[n, channels, length]` series, `[n, channels, height, width]` pictures and `[n,
    channels, depth, height, width]` volumes. Series of one channel are `[n, 1, length]`. Arrays of bytes with two or
    three axes a sample are pictures with 256 levels; others are continuous. Whatever is assumed or left out is printed
    in a line that begins with "data:".

    Args:
        path: the file or folder.
        test: the fraction held back, where the files have no test set of their own.
        seed: of the split.
        levels: how many values 0, 1, … a component takes, in place of what the files say.
        layout: of arrays: "channels_first" or "channels_last"; by default see `layout.layout_of`.
        header: of tables: whether the first row holds names; by default see `tables.read_table`.
        size: of images: the height and width they are scaled and cropped to, see `image_file.read_image`.
        flip: of pictures: whether training also sees the mirror image of each, from left to right. The mirror images
            have numbers of their own, so that every pass sees each picture both ways.
        transform: of vectors: "auto" for a monotone map of each column with heavy tails, skewness or outliers, "none"
            for no maps, see `Data`.
        fingerprint: what is kept of the files to know them again: "quick" for names, sizes and times, "full" for their
            contents as well. Then a run refuses to go on with any other content.
        index: of tables: whether to keep the first column, if it numbers the rows; by default see `tables.read_table`.
        weights: how much each sample counts in the loss, see `weights.loss_weights`: the name of a column of a table,
            which is no part of the samples then, or a .npy array with one number for each sample of the files that is
            not in a test set of their own. By default each counts 1. Units and reports are without weights.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it is empty or damaged, an argument does not concern it, or what `Data` raises.
    """

    @checked
    def __init__(
        self,
        path: Annotated[str | int | Path, Filled("text")],
        test: Annotated[float, Range(above=0, below=1)] = 0.1,
        seed: Seed = 0,
        levels: Annotated[int, Range(least=2, most=MOST_LEVELS)] | None = None,
        layout: Literal["channels_first", "channels_last"] | None = None,
        header: bool | None = None,
        index: bool | None = None,
        size: Annotated[int, Range(least=1, most=65_536)] | None = None,
        flip: bool = False,
        fingerprint: Literal["quick", "full"] = "quick",
        transform: Literal["auto", "none"] = "none",
        weights: Annotated[str, Filled("text")] | None = None,
    ) -> None:
        found = Path(str(path)).expanduser()  # a name that is a number comes as one
        samples = read(found, layout=layout, header=header, index=index, size=size)
        for note in samples.notes:
            print(f"data: {found.name}: {note}")
        counts: Tensor | None = None
        if weights is not None:
            samples, counts = _weighted(samples, weights, found)
        if levels is None:
            levels = samples.levels
            _tell_of_whole_numbers(samples, found.name)
        train_labels, test_labels = samples.labels, samples.test_labels
        if samples.test is None:
            train, held, train_labels, test_labels = split(samples.values, samples.labels, test, seed, found.name)
            rest, kept, *_ = split(torch.arange(len(samples.values), device="cpu"), None, test, seed)
        else:
            train, held = samples.values, samples.test
            rest, kept = torch.arange(len(train) + len(held), device="cpu").split([len(train), len(held)])
            said = f"the files have a test set of {len(held)} samples; data.test and data.seed change nothing"
            print(f"data: {found.name}: {said}")
        super().__init__(
            train,
            held,
            train_labels,
            test_labels,
            levels=levels,
            name=found.name,
            columns=samples.columns,
            class_names=samples.class_names if train_labels is not None else None,
            fingerprint=fingerprint_of(found, fingerprint),
            transform=transform,
        )
        if flip and len(self.shape) != 3:
            raise ValueError(f"flip=true: expected pictures, got samples of shape {list(self.shape)}")
        self.flip = flip
        self.order, self.places = (rest, kept), samples.places
        self.train_weights = None if counts is None else counts[rest]
        if weights is not None and weights.endswith(".npy"):
            self.path_keys = ("path", "weights")
            self.also_of(Path(weights).expanduser())

    def __len__(self) -> int:
        """How many samples training sees in a pass: each picture twice if it is flipped as well."""
        return len(self.train) * (1 + self.flip)

    def records(self, indices: Tensor) -> Record:
        """The training samples with numbers `indices`, `[batch]`. From `len(train)` on they are mirror images."""
        if not self.flip:
            return super().records(indices)
        mirrored = indices >= len(self.train)
        record = super().records(torch.where(mirrored, indices - len(self.train), indices))
        where, condition = mirrored.reshape(-1, 1, 1, 1), record.condition
        if condition is not None and condition.ndim == 4:  # a picture is mirrored with its sample
            condition = torch.where(where, condition.flip(-1), condition)
        sample = torch.where(where, record.sample.flip(-1), record.sample)
        return record._replace(sample=sample, condition=condition, index=indices)


def _weighted(samples: Samples, weights: str, path: Path) -> tuple[Samples, Tensor]:
    """The samples without their column of weights, if it is one, and the weights of those that may be trained on.

    Raises:
        FileNotFoundError, ValueError: if there are no such weights.
    """
    n = len(samples.values)
    if weights.endswith(".npy"):
        return samples, loss_weights(read_weights(Path(weights).expanduser()), n)
    names = samples.columns
    if names is None or weights not in names:
        known = f"one of the columns {', '.join(names)}" if names else "a .npy array, as the columns have no names"
        raise ValueError(f"weights={weights}: expected {known}; path={path}")
    place = names.index(weights)
    rest = [number for number in range(len(names)) if number != place]
    if not rest:
        raise ValueError(f"weights={weights}: it is the only column of {path}")
    values = samples.values[:, rest]
    held = None if samples.test is None else samples.test[:, rest]
    kept = replace(samples, values=values, test=held, columns=tuple(names[number] for number in rest))
    return kept, loss_weights(samples.values[:, place].numpy(), n)


def _tell_of_whole_numbers(samples: Samples, name: str) -> None:
    """Tell where continuous data look discrete: a density can grow without bound at whole numbers."""
    values = samples.values
    if samples.levels is not None:
        return
    low, high = float(values.min()), float(values.max())
    if 0 <= low < high < MOST_LEVELS and bool((values == values.round()).all()):
        print(
            f"data: {name}: all values are whole numbers, from {low:g} to {high:g}, and are taken for continuous; "
            f"data.levels={int(high) + 1} makes them levels"
        )


def read(path: Path, **options: object) -> Samples:
    """The samples at `path`, by the reader for its kind.

    Args:
        path: the file or folder.
        options: what `Files` takes besides, and `missing` for arrays and tables: whether a missing number is NaN and
            not an error. Those that are None are left to the reader.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it is empty or of no kind known here, or if an option does not concern its kind.
    """
    check_exists(path)
    reader, kind, known = _reader(path)
    given = {name: value for name, value in options.items() if value is not None}
    strange = [name for name in given if name not in known]
    if strange:
        raise ValueError(f"{strange[0]}={given[strange[0]]}: this option is not for {kind}, which path={path} holds")
    return reader(path, **given)


def takes(path: Path, option: str) -> bool:
    """Whether an option of `Files` concerns files of the kind that `path` holds.

    Raises:
        FileNotFoundError, ValueError: as `read` does.
    """
    check_exists(path)
    return option in _reader(path)[2]


def _reader(path: Path) -> tuple[Callable[..., Samples], str, tuple[str, ...]]:
    """The reader of a file or folder, what it reads, and the options it takes."""
    if path.is_dir():
        files = visible_files(path)
        if not files:
            raise ValueError(f"path={path}: the folder is empty")
        if any(file.suffix.lower() in IMAGES for file in files):
            return read_images, "folders of images", ("size",)
        if any("ubyte" in file.name or ".idx" in file.name for file in files):
            return read_idx_folder, "IDX files", ("layout",)
        raise ValueError(
            f"path={path}: found neither images nor IDX files in the folder; its first file is {files[0].name}"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"path={path}: the file is empty")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy, "arrays", ("layout", "missing")
    if suffix == ".npz":
        return read_npz, "arrays", ("layout", "missing")
    if path.name.lower().endswith(TABLES):
        return read_table, "tables", ("header", "index", "missing")
    if suffix in IMAGES:
        raise ValueError(f"path={path}: one image is no data set; give the folder it is in")
    return read_idx_file, "IDX files", ("layout",)
