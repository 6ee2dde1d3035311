"""What the samples of a data set are conditioned on: the options of the config group `condition`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import torch

from backdrift.data.conditions import Conditions
from backdrift.data.dataset import Data
from backdrift.data.files import read, takes
from backdrift.data.reading_advice import advice_in
from backdrift.data.samples import Samples
from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Filled, Range


class ConditionChoice(Protocol):
    """An option of the group `condition`."""

    def of(self, data: Data) -> Data:
        """The data set with the conditions of its samples."""


@dataclass(frozen=True)
class NoCondition:
    """The samples have no conditions. This is the default of a training."""

    def of(self, data: Data) -> Data:
        """The data set as it is."""
        return data


@dataclass(frozen=True)
class LabelCondition:
    """The class of each sample is its condition. The data set must have classes."""

    def of(self, data: Data) -> Data:
        """The same data set, whose classes are conditions.

        Raises:
            ValueError: if it has no classes.
        """
        if not data.classes:
            raise ValueError(f"condition=label: expected data with classes, but {data.name} has no labels")
        return data.conditioned_on_labels()


@dataclass(frozen=True)
class ColumnsCondition:
    """Some columns of a table are the condition of the others.

    Args:
        columns: their names, or their numbers from 1. A name counts first.

    Raises:
        ValueError: if there is no column in the list, or one is no name or number.
    """

    columns: Annotated[Sequence[Annotated[str | int, Filled("text")]], Filled()]

    def __post_init__(self) -> None:
        check_fields(self)

    def of(self, data: Data) -> Data:
        """A data set of the other columns.

        Raises:
            ValueError: if the samples are no vectors, there is no such column, one is named twice, or none is left.
        """
        if len(data.shape) != 1:
            raise ValueError(
                f"condition=columns: expected samples that are vectors, got samples of shape {list(data.shape)}"
            )
        numbers = [self._number(column, data) for column in self.columns]
        for place, number in enumerate(numbers):
            if number in numbers[:place]:
                raise ValueError(f"condition.columns: expected different columns, got {self.columns[place]} twice")
        if len(numbers) == data.shape[0]:
            raise ValueError("condition.columns: expected some of the columns, got all; none is left to be sampled")
        return data.conditioned_on_columns(numbers)

    def _number(self, column: str | int, data: Data) -> int:
        """The number of a column from 0."""
        names = data.columns or ()
        if str(column) in names:
            return list(names).index(str(column))
        if isinstance(column, int) and 1 <= column <= data.shape[0]:
            return column - 1
        listed = f", or one of {', '.join(names)}" if names else ""
        raise ValueError(f"condition.columns: expected numbers from 1 to {data.shape[0]}{listed}, got {column}")


@dataclass(frozen=True)
class OwnCondition:
    """The condition that each sample of a run's data set comes with, for commands that measure a trained network."""

    def of(self, data: Data) -> Data:
        """Refuse the choice in a training.

        Raises:
            ValueError: always.
        """
        raise ValueError("condition=data: expected none, label, columns or file in a training, which say what it is")


@dataclass(frozen=True)
class FileCondition:
    """The condition of each sample is a vector or a picture in another file or folder, in the order of the samples.

    Missing numbers of arrays and tables (NaN, an empty cell) are missing in the condition.

    Args:
        path: an array, a table, or a folder of images, of any kind that `Files` reads.
        header, index: of tables, see `Files`.
        layout: of arrays, see `Files`.
        size: of images, see `Files`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    path: Annotated[str | int | Path, Filled("text")]
    header: bool | None = None
    index: bool | None = None
    layout: Literal["channels_first", "channels_last"] | None = None
    size: Annotated[int, Range(least=1, most=65_536)] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def read(self) -> Samples:
        """The conditions in the file. What is assumed is printed in a line that begins with "condition:".

        Raises:
            FileNotFoundError, ValueError: as `files.read` does, naming `condition.path`.
        """
        path = Path(str(self.path)).expanduser()
        options = {"header": self.header, "index": self.index, "layout": self.layout, "size": self.size}
        try:
            missing = {"missing": True} if takes(path, "missing") else {}
            samples = read(path, **options, **missing)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"condition.{advice_in('condition', str(error))}") from error
        for note in samples.notes:
            print(f"condition: {path.name}: {advice_in('condition', note)}")
        if samples.labels is not None:
            print(f"condition: {path.name}: its classes are not used; condition=label takes those of the data")
        return samples

    def of(self, data: Data) -> Data:
        """The data set with a condition for each sample, which keeps to it when a test set is drawn.

        Raises:
            FileNotFoundError: if there is nothing at `path`.
            ValueError: if the data were not read from files, or there is not one condition for each sample.
        """
        if data.order is None:
            raise ValueError(
                f"condition=file: expected samples read from files (data=array, idx or images), got {data.name}"
            )
        samples, name = self.read(), Path(str(self.path)).name
        values = samples.values if samples.test is None else torch.cat((samples.values, samples.test))
        train, test = data.order
        expected = len(train) + len(test)
        if len(values) != expected:
            raise ValueError(
                f"condition.path={self.path}: expected a condition for each of the {expected} samples of {data.name}, "
                f"got {len(values)}"
            )
        if samples.places is not None and data.places is not None and isinstance(samples.places[0], str):
            print(f"data: {name}: {samples.places[0]} is the condition of {data.places[0]}, and so on in this order")
        given = data.conditioned_on(Conditions.of(values[train], values[test], name, samples.columns))
        given.also_of(Path(str(self.path)).expanduser())
        return given
