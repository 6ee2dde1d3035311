"""A trained model given the condition under which a command scores samples: one for all, or each sample's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from backdrift.data import Data
from backdrift.data.card import DataCard
from backdrift.data.condition_choice import FileCondition, NoCondition, OwnCondition
from backdrift.data.new_conditions import read_new_conditions
from backdrift.evaluation.conditioning import EVERY, conditioned, of_kind, towards
from backdrift.models.accepted_condition import classes_of
from backdrift.models.conditional_network import ConditionalNetwork
from backdrift.runs.configuration import build

OWN = "data"
"""What the keys `label` and `condition` say for each sample's own class or condition."""


def conditions_asked(
    config: DictConfig, card: DataCard, own: Tensor | None, n: int, there: int | None = None
) -> Tensor | None:
    """The vectors or pictures under which `n` samples are scored, `[n, ...]` in their own units; None for none.

    Args:
        config: of the command, with the group `condition` and the key `label`.
        card: of the run's data set.
        own: those that the samples come with, `[n, ...]`, or None where they are not known.
        n: number of samples. A file has a condition for each of them, or one for all.
        there: number of samples that there are, of which the n are the first. A file may have a condition for each.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a class is asked for as well, the network takes no vectors or pictures, or there are not as many
            conditions as samples.
    """
    choice = build(config, "condition")
    if isinstance(choice, NoCondition):
        return None
    asked = config.condition.get("path", None)
    said = f"condition={OWN}" if asked is None else "condition=file"
    if not isinstance(choice, (OwnCondition, FileCondition)):
        raise ValueError("condition: expected none, data or file; condition=label and columns are for train")
    if config.label is not None:
        raise ValueError(f"label={config.label}: expected null beside {said}")
    if card.conditions is None:
        raise ValueError(
            f"{said}: the run's network takes no vectors or pictures; train with condition=columns or condition=file, "
            f"and for classes take label={OWN}"
        )
    if isinstance(choice, OwnCondition):
        if own is None:
            raise ValueError(f"{said}: expected samples with conditions, got samples without")
        return own
    values = read_new_conditions(choice, card.conditions).values
    if len(values) not in (1, n, there or n):
        every = f", or of all {there}" if there not in (None, n) else ""
        raise ValueError(
            f"condition.path={asked}: expected a condition for each of {n} samples{every}, or one for all, got "
            f"{len(values)}"
        )
    return values[:n] if len(values) > 1 else values.expand(n, *values.shape[1:])


def model_given(model: Any, card: DataCard, conditions: Tensor, guidance: float = 1.0) -> Any:
    """A model of a run given vectors or pictures `[n, ...]` in their own units, one for each sample, with guidance.

    Raises:
        ValueError: if the model takes none, or others.
    """
    if card.conditions is None or not isinstance(model, ConditionalNetwork):
        raise ValueError(f"condition: expected a model that takes a condition, got a {type(model).__name__}")
    return towards(model, of_kind(card.conditions.kind, conditions), guidance)


def model_scoring(model: Any, card: DataCard, label: int | str | None, labels: Tensor | None, n: int) -> Any:
    """A model given the classes of `n` samples.

    Args:
        model: of a run.
        card: of its data set, which has the names of the classes.
        label: a class by its number from 0, or by its name; "data" for each sample's own; None for no class.
        labels: the class of each sample, `[n]`, or None where they are not known.
        n: number of samples.

    Raises:
        ValueError: if the model has no classes, there is no such class, or the classes of the samples are not known.
    """
    if label != OWN:
        if label == EVERY:
            raise ValueError("label=all: expected one class, or data for each sample's own")
        return conditioned(model, card, label, 1.0, n).model
    require_classes(model, label)
    if labels is None:
        raise ValueError("label=data: expected samples with labels, got samples without")
    return model.given(labels.to(next(model.parameters()).device))


def rows_of_class(config: DictConfig, data: Data, model: Any) -> tuple[Tensor, Tensor | None]:
    """The first `config.n` samples of the split `config.split` (all if `n` is null), and their labels or None.

    Where `config.label` is a class, they are the first of this class, since what is measured given a class holds for
    its samples alone.

    Raises:
        ValueError: if there is no such class, or there are no samples of it.
    """
    values, labels = (data.train, data.train_labels) if config.split == "train" else (data.test, data.test_labels)
    if config.label not in (None, OWN, EVERY):
        asked = conditioned(model, data.card, config.label, 1.0, 1).labels
        if labels is None or asked is None:
            raise ValueError(f"label={config.label}: expected a data set with labels")
        of_class = labels == asked
        values, labels = values[of_class], labels[of_class]
        if not len(values):
            raise ValueError(f"label={config.label}: the {config.split} set has no samples of this class")
    return values[: config.n], None if labels is None else labels[: config.n]


def require_classes(model: Any, label: object) -> int:
    """The number of classes of a model's network.

    Raises:
        ValueError: naming the key `label` if the network has none.
    """
    classes = classes_of(getattr(model, "network", None))
    if not classes or not hasattr(model, "given"):
        raise ValueError(f"label={label}: the run's network has no classes; train with condition=label")
    return classes


def said(label: int | str | None, guidance: float = 1.0, condition: DictConfig | None = None) -> str | None:
    """The condition in words, for the files of results; None without.

    Args:
        label: what the key of this name says.
        guidance: w.
        condition: the group of this name.
    """
    words: str | None
    if condition is not None and _is_given(condition):
        path = condition.get("path", None)
        words = "each sample's own condition" if path is None else f"the conditions in {Path(str(path)).name}"
        return words if guidance == 1 else f"{words}, guidance {guidance:g}"
    if label is None:
        return None
    words = {OWN: "each sample's own class", EVERY: "every class"}.get(str(label), f"class {label}")
    return words if guidance == 1 else f"{words}, guidance {guidance:g}"


def _is_given(condition: DictConfig) -> bool:
    """Whether the group asks for a condition."""
    return not str(condition.get("_target_", "")).endswith(NoCondition.__name__)


def in_a_name(
    label: int | str | None, guidance: float = 1.0, mark: str = "-", condition: DictConfig | None = None
) -> str:
    """The condition as a part of a file's name, each piece after a `mark`; empty without.

    Of the names of a class and of a file only letters, numbers, dots, minus signs and underscores are kept.
    """
    if condition is not None and _is_given(condition):
        path = condition.get("path", None)
        name = f"{mark}given" + ("" if path is None else mark + re.sub(r"[^\w.-]+", "_", Path(str(path)).name))
    elif label is None:
        return ""
    else:
        name = mark + "label" + re.sub(r"[^\w.-]+", "_", str(label))
    return name if guidance == 1 else f"{name}{mark}guidance{guidance:g}"
