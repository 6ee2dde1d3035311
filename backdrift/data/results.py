"""Generated samples as files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.views import stored

ORIGIN = "provenance"
"""The name under which an archive says where its samples come from. Readers of data sets know it."""


def write_archive(
    file: Path, card: DataCard, x: Tensor, origin: str | None = None, labels: Tensor | None = None
) -> None:
    """Write samples into an archive (.npz), in the data's own units as `x`, so that it can be read as a data set.

    Args:
        file: the archive.
        card: of the data set: its units, and names of columns, which are kept as `columns`.
        x: samples in the model's units, `[n, ...]`.
        origin: where they come from, in one line, kept as `provenance`.
        labels: the class of each sample, kept as `labels`, with the names of the classes; or None. There may be more
            labels than samples, as after an interruption.
    """
    arrays = {"x": stored(card.units, x)}
    if card.columns is not None:
        arrays["columns"] = np.array(card.columns)
    if labels is not None:
        arrays["labels"] = labels[: len(x)].cpu().numpy()
        if card.classes is not None:
            arrays["class_names"] = np.array(card.classes)
    if origin is not None:
        arrays[ORIGIN] = np.array(origin)
    np.savez(file, **arrays)  # type: ignore[arg-type]


def write_table(file: Path, card: DataCard, x: Tensor, comment: str = "", labels: Sequence[str] | None = None) -> None:
    """Write samples of a table with names of columns into a table (.csv). The numbers have all their digits.

    Args:
        file: the table.
        card: of the data set: its units, and the names of its columns.
        x: samples in the model's units, `[n, d]`.
        comment: lines that begin with #, for the top of the file.
        labels: the class of each sample, for a last column `class`, or None.

    Raises:
        ValueError: if the columns have no names.
    """
    if card.columns is None:
        raise ValueError("card: expected names of columns, got none")
    # A first name that begins with # would make a comment of the line; in quotes it does not.
    in_quotes = card.columns[0].startswith("#")
    with file.open("w", newline="", encoding="utf-8") as opened:
        opened.write(comment)
        writer = csv.writer(
            opened, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if in_quotes else csv.QUOTE_MINIMAL
        )
        rows: list[list[object]] = [list(card.columns), *stored(card.units, x).tolist()]
        if labels is not None:
            rows = [[*row, label] for row, label in zip(rows, ["class", *labels], strict=True)]
        writer.writerows(rows)
