"""Data sets in WebDataset's format, which stay on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from backdrift.data.checks import check_exists
from backdrift.data.stored_shards import StoredShards
from backdrift.data.streams import HeldBack, ImageSize, StoredData, Workers
from backdrift.data.units import MOST_LEVELS
from backdrift.sde.arguments import checked
from backdrift.sde.value_types import Filled, Range, Seed


class WebDataset(StoredData):
    """Tar files of images or arrays with their classes, in WebDataset's format (Aizman, Maltby & Breuel 2019).

    They are read by their places and not by the library of that name, see `StoredShards`.

    Args:
        path: an uncompressed .tar file, or a folder of them.
        sample: the kind of the files that are samples, such as "png", "input.png" or "npy"; null for the only kind of
            images or arrays.
        labels: the kind of the files that hold the class; null for "cls", if there are any.
        weights: the kind of the files that hold how much the sample counts in the loss, see `weights.loss_weights`;
            null if each counts 1.
        test, seed, fingerprint: see `StoredData`.
        levels: how many values 0, 1, … a component takes; by default 256 for pictures of bytes, otherwise continuous.
        layout: of arrays: "channels_first" or "channels_last"; by default see `layout.layout_of`.
        size: of images: the height and width they are scaled and cropped to, see `image_file.read_image`.
        workers: of images: threads that decode them.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: what `StoredShards` or `StoredData` raises.
    """

    @checked
    def __init__(
        self,
        path: Annotated[str | int | Path, Filled("text")],
        sample: Annotated[str, Filled("text")] | None = None,
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
        stored = StoredShards(found, sample, labels, weights, layout, size, workers)
        super().__init__(stored, found, test, seed, levels, fingerprint)
