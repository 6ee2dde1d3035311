"""New samples for a model that was trained on others: read from files, and held against the card of its data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.checks import check_levels_of, check_magnitude
from backdrift.data.condition_choice import ColumnsCondition
from backdrift.data.files import read, takes
from backdrift.data.reading_advice import advice_of_run
from backdrift.data.samples import Samples

READING = ("layout", "header", "index", "size")
"""Arguments of `Files` that say how its files are read. New samples are read in the same way."""


@dataclass(frozen=True)
class NewSamples:
    """Samples v in the units of a data set that they do not belong to.

    Attributes:
        name: of the file or folder.
        values: v, `[n, ...]`, n >= 1.
        labels: the number of the class of each sample among those of the card, `[n]`, or None.
        places: where each sample stands: the number of its row in a table, the path of its image below the folder, or
            None for arrays, where its index tells.
        conditions: the columns that are the condition of each sample, `[n, size]`, where they were asked for.
    """

    name: str
    values: Tensor
    labels: Tensor | None
    places: tuple[int | str, ...] | None
    conditions: Tensor | None = None


def read_new(
    path: Path,
    card: DataCard,
    reading: Mapping[str, Any],
    split: str = "test",
    conditions: ColumnsCondition | None = None,
) -> NewSamples:
    """Samples to be used with a model of the data set that `card` describes. There may be one alone.

    Columns that have the names of the card's, in another order, are put into its order. What is assumed or left out is
    printed in a line that begins with "data:".

    Args:
        path: the file or folder, of any kind that `Files` reads.
        card: says the shape, the names of columns and classes, and the levels.
        reading: the arguments of the run's own data set. Those that say how files are read are used, as far as they
            concern files of this kind.
        split: which samples are taken of files that hold a training and a test set; of others all are.
        conditions: the columns that were conditions in training. The file then holds them beside the others, as the
            training set did. By default it holds the samples alone.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: in one line, if the samples are not of the card's shape, columns, levels or classes, or what `read`
            raises.
    """
    options = {name: reading[name] for name in READING if reading.get(name) is not None and takes(path, name)}
    samples = read(path, **options)
    notes = list(samples.notes)
    values, names, places = _of_split(samples, split, notes)
    given: Tensor | None = None
    if conditions is None:
        values = _in_order(values, samples.columns, card.columns, path, notes)
    else:
        values, given = _parted(values, samples.columns, card, conditions, path, notes)
    values = _coloured(values, card, notes)
    if tuple(values.shape[1:]) != card.units.shape:
        raise ValueError(
            f"path={path}: expected samples of shape {list(card.units.shape)}, as in {card.name}, got "
            f"{list(values.shape[1:])}"
        )
    if card.units.levels is None:
        check_magnitude(path.name, "new", values, card.units, card.columns)
    else:
        check_levels_of(path.name, "new", values, card.units.levels)
    labels = None if names is None or card.classes is None else _numbered(names, card.classes, path)
    for note in notes:
        print(f"data: {path.name}: {advice_of_run(note)}")
    return NewSamples(path.name, values, labels, places, given)


def _parted(
    values: Tensor,
    columns: Sequence[str] | None,
    card: DataCard,
    conditions: ColumnsCondition,
    path: Path,
    notes: list[str],
) -> tuple[Tensor, Tensor]:
    """The columns that are samples, and those that are their conditions, each in the order of the card."""
    if card.conditions is None:
        raise ValueError(f"path={path}: expected a run whose samples have conditions, but {card.name} has none")
    d, size = card.units.dim, card.conditions.size
    if values.ndim != 2 or values.shape[1] != d + size:
        raise ValueError(
            f"path={path}: expected rows of {d + size} columns, of which {size} are conditions, got samples of shape "
            f"{list(values.shape[1:])}"
        )
    if card.columns is not None and card.conditions.names is not None:
        if columns is None:
            raise ValueError(f"path={path}: expected names of the columns, which tell the conditions from the others")
        values = _in_order(values, columns, (*card.columns, *card.conditions.names), path, notes)
        return values[:, :d], values[:, d:]
    numbers = [int(column) - 1 for column in conditions.columns]  # a table without names has its columns by number
    return values[:, [number for number in range(d + size) if number not in numbers]], values[:, numbers]


def _of_split(
    samples: Samples, split: str, notes: list[str]
) -> tuple[Tensor, list[str] | None, tuple[int | str, ...] | None]:
    """The samples, the names of their classes, and their places."""
    values, labels, places = samples.values, samples.labels, samples.places
    if samples.test is not None:
        notes.append(f"the files have a training and a test set; the {split} set is taken (split={split})")
        first = 0 if split == "train" else len(values)
        if split != "train":
            values, labels = samples.test, samples.test_labels
        places = None if places is None else places[first : first + len(values)]
    if labels is None or samples.class_names is None:
        return values, None, places
    return values, [samples.class_names[label] for label in labels.tolist()], places


def _in_order(
    values: Tensor,
    columns: Sequence[str] | None,
    expected: tuple[str, ...] | None,
    path: Path,
    notes: list[str],
) -> Tensor:
    """The columns in the order of the expected ones, by their names where both have some."""
    if expected is None or columns is None:
        if expected is not None:
            notes.append(f"the columns have no names and are taken for {', '.join(expected)}, in this order")
        elif columns is not None:
            notes.append(f"the columns of the run have no names; {', '.join(columns)} are taken in this order")
        return values
    if tuple(columns) == expected:
        return values
    missing = [name for name in expected if name not in columns]
    strange = [name for name in columns if name not in expected]
    if missing or strange:
        wrong = f"lacks {', '.join(missing)}" if missing else f"also has {', '.join(strange)}"
        raise ValueError(f"path={path}: expected the columns {', '.join(expected)}, as in the run; the file {wrong}")
    notes.append(f"the columns are put into the order of the run: {', '.join(expected)}")
    return values[:, [list(columns).index(name) for name in expected]]


def _coloured(values: Tensor, card: DataCard, notes: list[str]) -> Tensor:
    """Grey pictures as coloured ones where the card's are. A folder of grey and coloured ones is read as coloured."""
    shape = card.units.shape
    if values.dtype == torch.uint8 and len(shape) == 3 and shape[0] == 3 and values.shape[1:] == (1, *shape[1:]):
        notes.append("all pictures are grey and are taken as coloured")
        return values.expand(-1, 3, -1, -1)
    return values


def _numbered(names: Sequence[str], classes: Sequence[str], path: Path) -> Tensor:
    """The numbers of classes by their names."""
    number = {name: place for place, name in enumerate(classes)}
    unknown = sorted(set(names) - set(number))
    if unknown:
        raise ValueError(f"path={path}: expected the classes {', '.join(classes)}, as in the run, got {unknown[0]}")
    return torch.from_numpy(np.array([number[name] for name in names], dtype=np.int64))
