"""A trained model given the classes, vectors or pictures that a command asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.condition_choice import FileCondition
from backdrift.data.conditions import Kind
from backdrift.data.new_conditions import read_new_conditions
from backdrift.data.results import GivenRows
from backdrift.models import Condition, Label, Picture, Vector, guided
from backdrift.models.accepted_condition import classes_of
from backdrift.models.conditional_network import ConditionalNetwork

EVERY = "all"
"""What the key `label` says for samples of every class."""


class Conditioned(NamedTuple):
    """A model given classes, or vectors or pictures.

    Attributes:
        model: for `n` samples, in the order of `labels` or of `given.rows`.
        n: number of samples.
        labels: the class of each sample, `[n]`, or None without classes.
        names: of the classes 0, 1, …
        given: the vectors or pictures, or None without.
    """

    model: Any
    n: int
    labels: Tensor | None
    names: Sequence[str] = ()
    given: GivenRows | None = None


def conditioned(model: Any, card: DataCard, label: int | str | None, guidance: float, n: int) -> Conditioned:
    """A model given a class, with guidance.

    Args:
        model: of a run.
        card: of its data set, which has the names of the classes.
        label: a class by its number from 0, or by its name; "all" for `n` samples of each; None for no class.
        guidance: w, see `models.guided`; 1 is the conditional model without guidance.
        n: number of samples; of each class for "all".

    Raises:
        ValueError: if the model has no classes, there is no such class, or guidance is asked for without a class.
    """
    if label is None:
        if guidance != 1:
            raise ValueError(
                f"guidance={guidance:g}: expected label=<class> beside it, or label=all, or condition=file"
            )
        return Conditioned(model, n, None)
    classes = classes_of(getattr(model, "network", None))
    if not classes or not isinstance(model, ConditionalNetwork):
        raise ValueError(f"label={label}: the run's network has no classes; train with condition=label")
    names = card.names_of(classes)
    if label == EVERY:
        labels = torch.arange(classes).repeat_interleave(n)
    else:
        labels = torch.full((n,), _number(label, names, classes))
    return Conditioned(towards(model, Label(labels), guidance), len(labels), labels, names)


def conditioned_on_file(model: Any, card: DataCard, file: FileCondition, guidance: float, n: int) -> Conditioned:
    """A model given the vectors or pictures of a file, `n` samples for each of them, with guidance.

    Args:
        model: of a run.
        card: of its data set, which says what conditions it was trained on.
        file: where they are, in their own units.
        guidance: w, see `models.guided`; 1 is the conditional model without guidance.
        n: number of samples for each condition.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the model takes no vectors or pictures, or those in the file do not fit.
    """
    known = card.conditions
    if known is None or not isinstance(model, ConditionalNetwork):
        has = "classes: label=<class> asks for one" if classes_of(getattr(model, "network", None)) else "no condition"
        raise ValueError(
            f"condition=file: the run's network takes {has}; train with condition=columns or condition=file"
        )
    read = read_new_conditions(file, known)
    rows = torch.arange(len(read.values)).repeat_interleave(n)
    condition = of_kind(known.kind, read.values[rows])
    given = GivenRows(read.values, rows, read.places, known.names)
    return Conditioned(towards(model, condition, guidance), len(rows), None, (), given)


def of_kind(kind: Kind, values: Tensor) -> Vector | Picture:
    """Conditions `[n, ...]` in their own units, as a model takes them."""
    # Vectors may have a large shift, whose digits the standardisation needs.
    return Vector(values.double()) if kind == "vector" else Picture(values.float())


def towards(model: ConditionalNetwork, condition: Condition, guidance: float) -> Any:
    """The model given a condition, with guidance.

    Raises:
        ValueError: if guidance is asked for, and the model has no denoiser.
    """
    if guidance == 1:
        return model.given(condition)
    if not hasattr(model, "denoise"):
        raise ValueError(f"guidance={guidance:g}: expected 1, as the run's model has no denoiser to guide")
    return guided(model, condition, guidance)


def _number(label: int | str, names: Sequence[str], classes: int) -> int:
    """The number of a class that is given by its name or its number. A name counts first."""
    if str(label) in names:
        return list(names).index(str(label))
    if isinstance(label, int) and 0 <= label < classes:
        return label
    listed = ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])}, …"
    raise ValueError(f"label={label}: expected a number from 0 to {classes - 1}, or one of the classes {listed}")
