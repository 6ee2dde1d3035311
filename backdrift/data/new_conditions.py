"""New conditions for a trained model, read from a file and held against the card of those it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backdrift.data.condition_choice import FileCondition
from backdrift.data.conditions import AXES, ConditionCard


@dataclass(frozen=True)
class NewConditions:
    """Conditions in their own units.

    Attributes:
        name: of the file or folder.
        values: `[n, ...]`; a NaN is a missing number.
        places: the number of the row of each in its table, the path of its image, or its number from 0 in an array.
    """

    name: str
    values: Tensor
    places: tuple[int | str, ...]


def read_new_conditions(file: FileCondition, card: ConditionCard) -> NewConditions:
    """The conditions in a file, the columns in the order of the card's where both have names.

    Args:
        file: where they are.
        card: of the conditions that the model was trained on.

    Raises:
        FileNotFoundError: if there is nothing there.
        ValueError: in one line, if they are of another kind, length or number of channels, or have other columns.
    """
    samples, path = file.read(), Path(str(file.path))
    values = samples.values if samples.test is None else torch.cat((samples.values, samples.test))
    if card.names is not None and samples.columns is not None:
        values = values[:, _order(samples.columns, card.names, path)]
    elif card.names is not None and values.ndim == 2 and values.shape[1] == card.size:
        taken = f"the columns have no names and are taken for {', '.join(card.names)}, in this order"
        print(f"condition: {path.name}: {taken}")
    if values.ndim != 1 + AXES[card.kind] or values.shape[1] != card.size:
        what = f"vectors of {card.size} numbers" if card.kind == "vector" else f"pictures of {card.size} channels"
        raise ValueError(
            f"condition.path={file.path}: expected {what}, as in training, got an array of shape {list(values.shape)}"
        )
    places = samples.places or tuple(range(len(values)))
    outside = card.outside(values, [f"row {place}" if isinstance(place, int) else place for place in places])
    if outside is not None:
        print(f"condition: {path.name}: {outside}")
    return NewConditions(path.name, values, places)


def _order(columns: Sequence[str], names: Sequence[str], path: Path) -> list[int]:
    """The numbers of the columns that have the names of the condition, in their order."""
    missing = [name for name in names if name not in columns]
    strange = [name for name in columns if name not in names]
    if missing or strange:
        wrong = f"lacks {', '.join(missing)}" if missing else f"also has {', '.join(strange)}"
        raise ValueError(
            f"condition.path={path}: expected the columns {', '.join(names)}, as in training; the file {wrong}"
        )
    return [list(columns).index(name) for name in names]
