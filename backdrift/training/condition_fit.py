"""Whether a network takes the conditions that samples come with."""

from __future__ import annotations

from backdrift.data import Data
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.models.conditions import Label, Picture, Vector


def require_fitting(accepted: AcceptedCondition, data: Data) -> None:
    """Raise unless the data have the conditions that a network takes, and the network takes those that were chosen.

    A network that does not say what it takes counts as one without conditions.

    Raises:
        ValueError: naming the key that should be changed.
    """
    chosen, name = AcceptedCondition.of(**data.condition_sizes), data.name
    takes = "takes no condition" if accepted.kind is None else f"takes {accepted.what}"
    if chosen.kind in (Vector, Picture) and accepted != chosen:
        key = "vector" if chosen.kind is Vector else "picture"
        hint = "; model=unet takes pictures" if chosen.kind is Picture else ""
        raise ValueError(
            f"model.{key}: expected {chosen.size}, the size of the condition of {name}, but the network {takes}{hint}"
        )
    if chosen.kind is Label and accepted.kind is not Label:
        raise ValueError(f"model.classes: expected {chosen.size}, since condition=label, but the network {takes}")
    if accepted.kind is not None and accepted.kind is not Label and accepted != chosen:
        raise ValueError(
            f"model: the network {takes}, but {name} comes with no condition; condition=columns or condition=file "
            "chooses one"
        )
    if accepted.kind is Label and data.train_labels is None:
        raise ValueError(f"model.classes: the data set {name} has no labels; set model.classes=0")
    if accepted.kind is Label and accepted.size < data.classes:
        raise ValueError(f"model.classes={accepted.size}: the data set {name} has {data.classes}")
