"""Generated samples as files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.views import stored

ORIGIN = "provenance"
"""The name under which an archive says where its samples come from. Readers of data sets know it."""


@dataclass(frozen=True)
class GivenRows:
    """The conditions that samples were drawn given.

    Attributes:
        values: vectors or pictures in their own units, `[k, ...]`; a NaN is a missing number.
        rows: for each sample the number of its condition among them, from 0, `[n]`.
        places: where each condition stands in its file: a row, the path of an image, or a number from 0.
        names: of the numbers of vectors, or None.
    """

    values: Tensor
    rows: Tensor
    places: tuple[int | str, ...]
    names: tuple[str, ...] | None = None

    def table(self, columns: Sequence[str]) -> list[list[object]]:
        """A heading and a row for each sample: the vector, where there is one, and its place.

        Args:
            columns: the names of the samples' own columns, which are not used twice.
        """
        names: list[str] = []
        if self.values.ndim == 2:
            names = list(self.names or (f"condition {k + 1}" for k in range(self.values.shape[1])))
        place = "file" if isinstance(self.places[0], str) else "row"
        heading = [f"condition {name}" if name in columns else name for name in names]
        taken = {*columns, *heading}
        heading.append(f"condition {place}" if place in taken else place)
        numbers = self.values.tolist() if names else [[] for _ in self.places]
        shown = [["" if value != value else value for value in row] for row in numbers]
        return [heading, *([*shown[k], self.places[k]] for k in self.rows.tolist())]


def write_archive(
    file: Path,
    card: DataCard,
    x: Tensor,
    origin: str | None = None,
    labels: Tensor | None = None,
    given: GivenRows | None = None,
) -> None:
    """Write samples into an archive (.npz), in the data's own units as `x`, so that it can be read as a data set.

    Args:
        file: the archive.
        card: of the data set: its units, and names of columns, which are kept as `columns`.
        x: samples in the model's units, `[n, ...]`.
        origin: where they come from, in one line, kept as `provenance`.
        labels: the class of each sample, kept as `labels`, with the names of the classes; or None. There may be more
            labels than samples, as after an interruption.
        given: the vectors or pictures that the samples were drawn given, kept as `condition`, and which of them belongs
            to each sample, kept as `condition_row`; or None.
    """
    arrays = {"x": stored(card.units, x)}
    if card.columns is not None:
        arrays["columns"] = np.array(card.columns)
    if labels is not None:
        arrays["labels"] = labels[: len(x)].cpu().numpy()
        if card.classes is not None:
            classes = max(len(card.classes), int(labels.max()) + 1)
            arrays["class_names"] = np.array(card.names_of(classes))
    if given is not None:
        arrays["condition"] = given.values.numpy()
        arrays["condition_row"] = given.rows[: len(x)].numpy()
        if given.names is not None:
            arrays["condition_columns"] = np.array(given.names)
    if origin is not None:
        arrays[ORIGIN] = np.array(origin)
    np.savez(file, **arrays)  # type: ignore[arg-type]


def write_table(
    file: Path,
    card: DataCard,
    x: Tensor,
    comment: str = "",
    labels: Sequence[str] | None = None,
    given: GivenRows | None = None,
) -> None:
    """Write samples of a table with names of columns into a table (.csv). The numbers have all their digits.

    Args:
        file: the table.
        card: of the data set: its units, and the names of its columns.
        x: samples in the model's units, `[n, d]`.
        comment: lines that begin with #, for the top of the file.
        labels: the class of each sample, for a last column `class`, or None.
        given: the vectors that the samples were drawn given, for columns with their names and for a last column `row`
            or `file`, which says where the vector of each sample stands in its file; or None.

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
        if given is not None:
            rows = [[*row, *more] for row, more in zip(rows, given.table(card.columns), strict=True)]
        writer.writerows(rows)
