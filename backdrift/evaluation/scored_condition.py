"""A trained model given the class under which a command scores samples: one for all, or each sample's own."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from backdrift.data import Data
from backdrift.data.card import DataCard
from backdrift.evaluation.conditioning import EVERY, conditioned
from backdrift.models.labels import classes_of

OWN = "data"
"""What the key `label` says for each sample's own class."""


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
    classes = classes_of(getattr(model, "network", None)) or 0
    if not classes or not hasattr(model, "given"):
        raise ValueError(f"label={label}: the run's network has no classes; train with model.classes=<number>")
    return classes


def said(label: int | str | None, guidance: float = 1.0) -> str | None:
    """The condition in words, for the files of results; None without."""
    if label is None:
        return None
    words = {OWN: "each sample's own class", EVERY: "every class"}.get(str(label), f"class {label}")
    return words if guidance == 1 else f"{words}, guidance {guidance:g}"


def in_a_name(label: int | str | None, guidance: float = 1.0, mark: str = "-") -> str:
    """The condition as a part of a file's name, each piece after a `mark`; empty without.

    Of the name of a class only letters, numbers, dots, minus signs and underscores are kept.
    """
    if label is None:
        return ""
    name = mark + "label" + re.sub(r"[^\w.-]+", "_", str(label))
    return name if guidance == 1 else f"{name}{mark}guidance{guidance:g}"
