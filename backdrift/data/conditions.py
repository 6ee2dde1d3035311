"""The vectors or pictures that samples come with, and what is known of them without the samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from backdrift.data.outliers import column_name
from backdrift.sde import DataMoments

Kind = Literal["vector", "picture"]

AXES = {"vector": 1, "picture": 3}
"""Axes of one condition of each kind."""


@dataclass(frozen=True)
class ConditionCard:
    """What a run keeps of the conditions of its samples, so that new ones can be given in their own units.

    Attributes:
        kind: "vector" or "picture".
        size: the length of a vector, or the channels of a picture.
        mean, variance: of each number of a vector, or of each channel, over the training samples. Missing numbers are
            left out.
        names: of the numbers of a vector, or None if they have none.
        least, greatest: as `mean`. None in runs of older versions.
    """

    kind: Kind
    size: int
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    names: tuple[str, ...] | None = None
    least: tuple[float, ...] | None = None
    greatest: tuple[float, ...] | None = None

    @property
    def moments(self) -> DataMoments:
        """`mean` and `variance`, `[size]` for vectors and `[size, 1, 1]` for pictures, in float64."""
        shape = (-1,) if self.kind == "vector" else (-1, 1, 1)
        mean, variance = (
            torch.tensor(moment, dtype=torch.float64, device="cpu").reshape(shape)
            for moment in (self.mean, self.variance)
        )
        return DataMoments(mean, variance)

    def to_dict(self) -> dict[str, Any]:
        """The card in lists, numbers and words, which JSON holds."""
        return {
            "kind": self.kind,
            "size": self.size,
            "mean": list(self.mean),
            "variance": list(self.variance),
            "names": None if self.names is None else list(self.names),
            "least": None if self.least is None else list(self.least),
            "greatest": None if self.greatest is None else list(self.greatest),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConditionCard:
        """The card that `to_dict` wrote.

        Raises:
            ValueError: if a key is not known, or has a value of the wrong kind.
            KeyError: if a key is missing.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"conditions: expected null, or keys and values, got {values!r}")
        kind, size = values["kind"], int(values["size"])
        if kind not in AXES:
            raise ValueError(f"conditions.kind: expected vector or picture, got {kind!r}")
        mean, variance = (tuple(float(each) for each in values[name]) for name in ("mean", "variance"))
        names = None if values["names"] is None else tuple(str(name) for name in values["names"])
        least, greatest = (
            None if values.get(name) is None else tuple(float(each) for each in values[name])
            for name in ("least", "greatest")
        )
        card = cls(kind, size, mean, variance, names, least, greatest)
        unknown = values.keys() - card.to_dict().keys()
        if unknown:
            raise ValueError(f"conditions: the key {min(unknown)!r} is not known")
        if {len(each) for each in (mean, variance, names, least, greatest) if each is not None} != {size}:
            raise ValueError(f"conditions: expected {size} means, variances, names, least and greatest numbers")
        if not all(math.isfinite(each) for each in mean) or not all(0 < each < math.inf for each in variance):
            raise ValueError("conditions: expected finite means and positive variances")
        return card

    def misfit(self, other: ConditionCard) -> str | None:
        """What keeps a model of these conditions from being used with other ones, in words, or None if nothing does."""
        for what, was, now in (("kind", self.kind, other.kind), ("size", self.size, other.size)):
            if was != now:
                return f"the {what} of its conditions was {was}, is now {now}"
        if None not in (self.names, other.names) and self.names != other.names:
            return "the names of its conditions have changed"
        return None

    def outside(self, values: Tensor, places: Sequence[int | str]) -> str | None:
        """Which conditions lie outside those of training, by more than a tenth of their range, in words; None if none.

        Args:
            values: conditions, `[n, ...]`.
            places: of each in its file.
        """
        if self.least is None or self.greatest is None:
            return None
        numbers = values.double().movedim(1, 0).reshape(self.size, len(values), -1)  # with the pixels of a channel last
        least, greatest = (values.new_tensor(ends).double().reshape(-1, 1, 1) for ends in (self.least, self.greatest))
        beyond = torch.maximum(least - numbers, numbers - greatest).nan_to_num(-math.inf) / (greatest - least)
        if not bool((beyond > 0.1).any()):
            return None
        each = beyond.amax((0, 2))
        number, row, pixel = (int(i) for i in torch.unravel_index(beyond.argmax(), beyond.shape))
        unnamed = f"{'number' if self.kind == 'vector' else 'channel'} {number + 1}"
        what = unnamed if self.names is None else self.names[number]
        ends = f"{self.least[number]:.6g} to {self.greatest[number]:.6g}"
        return (
            f"{int((each > 0.1).sum())} of {len(values)} conditions lie outside those of training, where nothing was "
            f"learnt; the farthest is {places[row]}, with {float(numbers[number, row, pixel]):.6g} for {what}, which "
            f"was {ends} in training"
        )

    def same_moments(self, other: ConditionCard) -> bool:
        """Whether mean and variance are the same, to rounding."""
        return all(
            math.isclose(was, now, rel_tol=1e-6, abs_tol=1e-6 * math.sqrt(variance))
            for was, now, variance in zip(self.mean, other.mean, self.variance, strict=True)
        ) and all(math.isclose(was, now, rel_tol=1e-6) for was, now in zip(self.variance, other.variance, strict=True))


class Conditions(NamedTuple):
    """The conditions of the samples of a data set, in their own units. A NaN is a missing number.

    Attributes:
        card: what is known of them.
        train: of the training samples, `[n, ...]`.
        test: of the test samples.
    """

    card: ConditionCard
    train: Tensor
    test: Tensor

    @classmethod
    def of(cls, train: Tensor, test: Tensor, name: str, names: Sequence[str] | None = None) -> Conditions:
        """Vectors `[n, d]` or pictures `[n, channels, height, width]` as conditions, measured on the training part.

        Args:
            train, test: the two parts.
            name: what they are called in messages.
            names: of the numbers of vectors.

        Raises:
            ValueError: if they are neither vectors nor pictures, or one number has the same value in all samples.
        """
        kinds: dict[int, Kind] = {2: "vector", 4: "picture"}
        if train.ndim not in kinds:
            raise ValueError(
                f"{name}: expected vectors [n, d] or pictures [n, channels, height, width] as conditions, got shape "
                f"{list(train.shape)}"
            )
        values = train.double().movedim(1, 0).flatten(1)
        known = ~values.isnan()
        count = known.sum(1)
        mean = values.nansum(1) / count
        square = torch.where(known, values - mean.unsqueeze(1), 0.0).square().sum(1)
        variance = square / (count - 1)
        for number, each in enumerate(variance.tolist()):
            if not 0 < each < math.inf:
                where = column_name(number, names) if train.ndim == 2 else f"channel {number + 1}"
                raise ValueError(
                    f"{name}: {where} has the same value in all {len(train)} training samples, or is missing in all, "
                    "and so tells nothing; leave it out of the condition"
                )
        card = ConditionCard(
            kinds[train.ndim],
            train.shape[1],
            tuple(mean.tolist()),
            tuple(variance.tolist()),
            None if names is None else tuple(names),
            tuple(values.nan_to_num(math.inf, math.inf, -math.inf).amin(1).tolist()),
            tuple(values.nan_to_num(-math.inf, math.inf, -math.inf).amax(1).tolist()),
        )
        return cls(card, train, test)
