"""What a data set has to be: each check raises an error in one line that names what is wrong, mostly `ValueError`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from backdrift.data.outliers import column_name
from backdrift.data.units import MOST_LEVELS, Units

DEBIAN = Path("/usr/share/datasets")
"""Where Debian's packages dataset-* put their files, each in a folder of its own."""

LARGEST = 1e15
"""The largest magnitude of a component of x. The loss squares it in float32, which ends at 3e38."""


def check_exists(path: Path) -> None:
    """There is a file or a folder at `path`; otherwise `FileNotFoundError`."""
    if not path.exists():
        debian = f"; apt install dataset-{path.name} puts it there" if path.parent == DEBIAN else ""
        raise FileNotFoundError(f"path={path}: there is no such file or folder{debian}")


def check_shapes(name: str, train: Tensor, test: Tensor) -> None:
    """Both splits hold samples `[n, ...]` of one shape."""
    if train.ndim < 2 or train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{name}: expected samples [n, ...], got train {list(train.shape)} and test {list(test.shape)}"
        )


def check_levels(name: str, train: Tensor, levels: int | None) -> None:
    """The number of levels is one that can be counted."""
    if levels is not None and levels < 2:
        raise ValueError(f"levels={levels}: expected at least 2, or null for continuous data")
    if levels is not None and levels > MOST_LEVELS:
        raise ValueError(
            f"levels={levels}: expected at most {MOST_LEVELS}; the largest value of {name} is {float(train.max()):.6g}"
        )


def check_samples(name: str, split: str, values: Tensor, levels: int | None) -> None:
    """There are samples of finite values, whole numbers where there are levels."""
    if len(values) < 2 or values[0].numel() == 0:
        raise ValueError(f"{name}: the {split} set has {len(values)} samples of shape {list(values.shape[1:])}")
    bad = ~values.flatten(1).isfinite().all(1)
    if bool(bad.any()):
        raise ValueError(
            f"{name}: {int(bad.sum())} of {len(values)} {split} samples hold NaN or inf, "
            f"the first is number {int(bad.nonzero()[0])}: remove or fill them first"
        )
    if levels is not None:
        check_levels_of(name, split, values, levels)


def check_levels_of(name: str, split: str, values: Tensor, levels: int) -> None:
    """Samples of discrete data are whole numbers from 0 to levels - 1."""
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > levels - 1 or not bool((values == values.round()).all()):
        raise ValueError(
            f"{name}: expected whole numbers from 0 to {levels - 1} ({levels} levels), got {split} values "
            f"from {low:.4g} to {high:.4g}"
        )


def check_labels(name: str, samples: dict[str, Tensor], labels: dict[str, Tensor | None]) -> None:
    """Every sample of both splits has a class 0, 1, …, or none has."""
    for split, values in labels.items():
        n = len(samples[split])
        if values is not None and (values.shape != (n,) or values.is_floating_point() or bool(values.min() < 0)):
            raise ValueError(
                f"{name}: expected {n} {split} labels 0, 1, …, got {list(values.shape)} of {values.dtype} "
                f"from {values.min() if values.numel() else 'none'}"
            )
    with_labels = [split for split, values in labels.items() if values is not None]
    if len(with_labels) == 1:
        raise ValueError(f"{name}: the {with_labels[0]} samples have labels and the others none; give both or neither")


def check_spread(name: str, train: Tensor, columns: Sequence[str] | None) -> None:
    """Continuous samples differ from each other, in every column if they are vectors.

    A column of one value has no density: its scale would be zero.
    """
    if bool((train == train[:1]).all()):
        raise ValueError(f"{name}: all training samples are the same; there is nothing to learn")
    if train.ndim != 2:
        return
    constant = (train == train[:1]).all(0)
    if bool(constant.any()):
        number = int(constant.int().argmax())
        raise ValueError(
            f"{name}: {column_name(number, columns)} has the same value, {float(train[0, number]):.6g}, in all "
            f"{len(train)} training samples and so no density; leave it out"
        )


def check_magnitude(name: str, split: str, values: Tensor, units: Units, columns: Sequence[str] | None) -> None:
    """Continuous samples have components that a model can square, in the units x that it works in."""
    x = units.standardised(values).abs()
    if bool((x <= LARGEST).all()):
        return
    place = torch.unravel_index(x.nan_to_num(torch.inf, torch.inf).argmax(), x.shape)
    where = f", {column_name(int(place[1]), columns)}" if x.ndim == 2 else ""
    value, scale = float(values[place]), units.scale.expand(values.shape[1:])[place[1:]]
    raise ValueError(
        f"{name}{where}: a {split} sample holds {value:.6g}, where the spread of the others is {float(scale):.4g}; "
        f"a value may be at most {LARGEST:g} times the spread away, so remove or correct it"
    )


def names_of(name: str, what: str, names: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """Names as a tuple, one for each of `count`."""
    if names is not None and len(names) != count:
        raise ValueError(f"{name}: {what}: expected {count} names, got {len(names)}")
    return None if names is None else tuple(names)
