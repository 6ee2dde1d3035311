"""A trained model given the classes that a command asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.models import Denoiser, guided
from backdrift.models.labels import classes_of

EVERY = "all"
"""What the key `label` says for samples of every class."""


class Conditioned(NamedTuple):
    """A model given classes.

    Attributes:
        model: for `n` samples, in the order of `labels`.
        n: number of samples.
        labels: the class of each sample, `[n]`, or None without classes.
        names: of the classes 0, 1, …
    """

    model: Any
    n: int
    labels: Tensor | None
    names: Sequence[str] = ()


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
            raise ValueError(f"guidance={guidance:g}: expected label=<class> beside it, or label=all")
        return Conditioned(model, n, None)
    classes = classes_of(getattr(model, "network", None)) or 0
    if not classes or not isinstance(model, Denoiser):
        raise ValueError(f"label={label}: the run's network has no classes; train with model.classes=<number>")
    names = card.classes or tuple(str(k) for k in range(classes))
    if label == EVERY:
        labels = torch.arange(classes).repeat_interleave(n)
    else:
        labels = torch.full((n,), _number(label, names, classes))
    device = next(model.parameters()).device
    given = model.given(labels.to(device))
    chosen = given if guidance == 1 else guided(model, labels.to(device), guidance)
    return Conditioned(chosen, len(labels), labels, names)


def _number(label: int | str, names: Sequence[str], classes: int) -> int:
    """The number of a class that is given by its name or its number. A name counts first."""
    if str(label) in names:
        return list(names).index(str(label))
    if isinstance(label, int) and 0 <= label < classes:
        return label
    listed = ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])}, …"
    raise ValueError(f"label={label}: expected all, a number from 0 to {classes - 1}, or one of the classes {listed}")
