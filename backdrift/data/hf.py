"""Data sets of the `datasets` library, which stay on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from backdrift.data.checks import check_exists
from backdrift.data.stored_hf import StoredTable
from backdrift.data.streams import HeldBack, ImageSize, StoredData, Workers
from backdrift.data.units import MOST_LEVELS
from backdrift.sde.arguments import checked
from backdrift.sde.value_types import Filled, Range, Seed


class HuggingFace(StoredData):
    """A table of the `datasets` library (Lhoest et al. 2021), or .parquet files. Nothing is downloaded.

    Args:
        path: a folder that `save_to_disk` wrote, a folder in the library's cache with .arrow files, a .parquet file, or
            a folder of them.
        split: which of the splits, if there are several. Test samples are taken from this one.
        columns: the column of images or arrays, or the columns of numbers, that make a sample; null for the one of
            images, else all of numbers except `labels` and `weights`.
        labels: the column of the classes; null for none.
        weights: the column that says how much each sample counts in the loss, see `weights.loss_weights`; null if each
            counts 1.
        test, seed, fingerprint: see `StoredData`.
        levels: how many values 0, 1, … a component takes; by default 256 for images, otherwise continuous.
        layout: of arrays: "channels_first" or "channels_last"; by default see `layout.layout_of`.
        size: of images: the height and width they are scaled and cropped to, see `image_file.read_image`.
        workers: of images: threads that decode them.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if the library is not installed, what `StoredTable` or `StoredData` raises.
    """

    @checked
    def __init__(
        self,
        path: Annotated[str | int | Path, Filled("text")],
        split: Annotated[str, Filled("text")] = "train",
        columns: list[Annotated[str, Filled("text")]] | None = None,
        labels: Annotated[str, Filled("text")] | None = None,
        weights: Annotated[str, Filled("text")] | None = None,
        test: HeldBack = 1024,
        seed: Seed = 0,
        levels: Annotated[int, Range(least=2, most=MOST_LEVELS)] | None = None,
        layout: Literal["channels_first", "channels_last"] | None = None,
        size: ImageSize | None = None,
        workers: Workers = 4,
        fingerprint: Literal["quick", "full"] = "quick",
    ) -> None:
        found = Path(str(path)).expanduser()
        check_exists(found)
        stored = StoredTable(found, split, columns, labels, weights, layout, size, workers)
        super().__init__(stored, found, test, seed, levels, fingerprint)
