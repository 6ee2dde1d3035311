"""What is known of a data set without its samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from backdrift.data.conditions import ConditionCard
from backdrift.data.fingerprint import Fingerprint
from backdrift.data.transform import Transform
from backdrift.data.units import Units
from backdrift.sde import DataMoments

Moment = float | tuple[float, ...]
"""One number for all components of a sample, or one for each in the order of the flattened sample."""


@dataclass(frozen=True, eq=False)
class DataCard:
    """What a run keeps of its data set, so that its model can be used without the samples.

    `to_dict` and `from_dict` go to JSON and back without the loss of a bit.

    Attributes:
        name: what the data set is called in messages and reports.
        units: the map between the data's own units v and the model's x.
        samples: number of training samples.
        std: standard deviation of x over all samples and components, which preconditioning asks for.
        mean, variance: of x, over the training samples. Up to `moments.PER_COMPONENT` components each has its own;
            beyond, there is one number for all. Those of discrete data include the dequantisation.
            Samples with rare outliers that no map brings near are left out.
        columns: the names of the components of vectors, or None if they have none.
        classes: the names of the classes 0, 1, …, or None if the samples have no labels.
        fingerprint: of the files that the samples were read from, or None if there are none.
        conditions: the vectors or pictures that samples are conditioned on, or None if there are none.
    """

    name: str
    units: Units
    samples: int
    std: float
    mean: Moment
    variance: Moment
    columns: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    fingerprint: Fingerprint | None = None
    conditions: ConditionCard | None = None

    @property
    def moments(self) -> DataMoments:
        """`mean` and `variance`, each shaped like a sample."""
        mean, variance = (
            torch.as_tensor(moment, dtype=torch.float64, device="cpu") for moment in (self.mean, self.variance)
        )
        if mean.ndim == 0:
            return DataMoments(mean.expand(self.units.shape), variance.expand(self.units.shape))
        return DataMoments(mean.reshape(self.units.shape), variance.reshape(self.units.shape))

    def names_of(self, classes: int) -> tuple[str, ...]:
        """The names of the first `classes` classes of a network, which may have more of them than the data set.

        The others are "class 3", "class 4", …; without names of classes they are their numbers.
        """
        if self.classes is None:
            return tuple(map(str, range(classes)))
        more = (f"class {number}" for number in range(len(self.classes), classes))
        return (*self.classes[:classes], *more)

    def to_dict(self) -> dict[str, Any]:
        """The card in lists, numbers and words, which JSON holds."""
        units = self.units
        return {
            "name": self.name,
            "shape": list(units.shape),
            "levels": units.levels,
            "shift": units.shift.tolist(),
            "scale": units.scale.tolist(),
            "range": [units.low, units.high],
            "transform": None if units.transform is None else units.transform.to_list(),
            "samples": self.samples,
            "std": self.std,
            "mean": _listed(self.mean),
            "variance": _listed(self.variance),
            "columns": _listed(self.columns),
            "classes": _listed(self.classes),
            "fingerprint": None if self.fingerprint is None else asdict(self.fingerprint),
            "conditions": None if self.conditions is None else self.conditions.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataCard:
        """The card that `to_dict` wrote.

        Raises:
            ValueError: if a key is missing, is not known, or has a value of the wrong kind.
        """
        try:
            card = cls(
                name=str(values["name"]),
                units=_units(values),
                samples=int(values["samples"]),
                std=float(values["std"]),
                mean=_moment(values["mean"]),
                variance=_moment(values["variance"]),
                columns=_names(values["columns"]),
                classes=_names(values["classes"]),
                fingerprint=None if values["fingerprint"] is None else Fingerprint(**values["fingerprint"]),
                conditions=None if values["conditions"] is None else ConditionCard.from_dict(values["conditions"]),
            )
        except KeyError as error:
            raise ValueError(f"the key {error} is missing") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"a value is of the wrong kind ({error})") from error
        unknown = values.keys() - card.to_dict().keys()
        if unknown:
            raise ValueError(f"the key {min(unknown)!r} is not known")
        _require_consistent(card)
        return card

    def misfit(self, other: DataCard) -> str | None:
        """What keeps a model of this data set from being used on another one, in words, or None if nothing does."""
        mine, theirs = self.units, other.units
        for what, was, now in (
            ("shape", mine.shape, theirs.shape),
            ("number of levels", mine.levels, theirs.levels),
            ("number of classes", len(self.classes or ()), len(other.classes or ())),
        ):
            if was != now:
                return f"its {what} was {was}, is now {now}"
        for what, names, others in (
            ("columns", self.columns, other.columns),
            ("classes", self.classes, other.classes),
        ):
            if names is not None and others is not None and names != others:
                changed = next(place for place, name in enumerate(names) if others[place] != name)
                return f"one of its {what} was {names[changed]}, is now {others[changed]}"
        if (self.conditions is None) != (other.conditions is None):
            return f"its samples had {'no ' if self.conditions is None else ''}conditions, which is changed"
        if self.conditions is not None and other.conditions is not None:
            return self.conditions.misfit(other.conditions)
        return None

    def difference(self, other: DataCard) -> str | None:
        """What tells two data sets apart, in words, or None if nothing does.

        Numbers may differ by rounding. The name, and the names and times of the files are not compared: a copy has
        others. Their contents are, if both cards know them.
        """
        misfit = self.misfit(other)
        if misfit is not None:
            return misfit
        mine, theirs = self.units, other.units
        if self.samples != other.samples:
            return f"its number of training samples was {self.samples}, is now {other.samples}"
        given, others = self.conditions, other.conditions
        if given is not None and others is not None and not given.same_moments(others):
            return "the mean or the variance of its conditions has changed"
        contents = [None if card.fingerprint is None else card.fingerprint.contents for card in (self, other)]
        if None not in contents and contents[0] != contents[1]:
            return "the contents of its files have changed"
        kinds = [None if units.transform is None else units.transform.kinds for units in (mine, theirs)]
        if kinds[0] != kinds[1]:
            return "the maps of its columns have changed"
        moved = [(theirs.shift - mine.shift) / mine.scale, theirs.scale / mine.scale - 1]
        for moments in ((self.mean, other.mean), (self.variance, other.variance)):
            before, after = (torch.as_tensor(moment, dtype=torch.float64, device="cpu") for moment in moments)
            moved.append((after - before) / before.abs().clamp(min=1))  # outliers make them large
        tolerance = 1e-6
        if mine.transform is not None and theirs.transform is not None:
            moved.append(mine.transform.difference(theirs.transform))
            tolerance = 5e-3  # the numbers of a map are rounded to three digits
        same = all(float(change.abs().max()) < tolerance for change in moved)
        return None if same else "the mean or the variance of its training samples has changed"


def _require_consistent(card: DataCard) -> None:
    """Raise `ValueError` where moments or names do not fit the shape, or are not what they can be."""
    for name, moment, least in (("mean", card.mean, -math.inf), ("variance", card.variance, 0.0)):
        each = moment if isinstance(moment, tuple) else (moment,)
        if isinstance(moment, tuple) and len(moment) != card.units.dim:
            raise ValueError(f"{name}: expected one number, or {card.units.dim}, got {len(moment)}")
        if not all(math.isfinite(value) and value >= least for value in each):
            raise ValueError(f"{name}: expected finite numbers{' from 0' if least == 0 else ''}")
    if card.columns is not None and (len(card.columns),) != card.units.shape:
        raise ValueError(
            f"columns: expected names for samples of shape {list(card.units.shape)}, got {len(card.columns)}"
        )
    if not 0 < card.std < math.inf:
        raise ValueError(f"std: expected a positive number, got {card.std}")


def _units(values: Mapping[str, Any]) -> Units:
    shape = tuple(int(length) for length in values["shape"])
    if values["levels"] is not None:
        return Units.of_levels(shape, int(values["levels"]))
    shift, scale = (torch.tensor(values[key], dtype=torch.float64, device="cpu") for key in ("shift", "scale"))
    low, high = values["range"]
    maps = values.get("transform")  # runs from before there were maps have none
    transform = None if maps is None else Transform.from_list(maps)
    return Units(shape, None, shift, scale, float(low), float(high), transform)


def _moment(value: float | list[float]) -> Moment:
    return tuple(float(each) for each in value) if isinstance(value, list) else float(value)


def _names(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(str(each) for each in value)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
