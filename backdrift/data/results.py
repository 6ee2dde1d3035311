"""Generated samples as files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.views import stored


def write_samples(folder: Path, card: DataCard, x: Tensor) -> list[Path]:
    """Write samples into `samples.npz`, and those of a table with names of columns into `samples.csv` as well.

    The archive holds the samples in the data's own units as `x`, and the names as `columns`, so that it can be read as
    a data set. The numbers of the table have all their digits.

    Args:
        folder: where the files go.
        card: of the data set: its units and names.
        x: samples in the model's units, `[n, ...]`.

    Returns:
        The files.
    """
    values, columns = stored(card.units, x), card.columns
    archive = folder / "samples.npz"
    if columns is None:
        np.savez(archive, x=values)
        return [archive]
    np.savez(archive, x=values, columns=np.array(columns))
    table = folder / "samples.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(values.tolist())
    return [archive, table]
