"""A monotone map of one column, under which heavy tails, skewness and outliers become nearly normal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

BEND = 3.5
"""Where the tails for outliers begin, in standard deviations of the bulk. Of a normal density 0.05% lies beyond."""

STEEPEST = 100.0
"""The largest |b|. The hyperbolic sine of 710 is infinite."""

KINDS = ("outliers", "heavy", "skewed")


@dataclass(frozen=True)
class ColumnMap:
    r"""An increasing map h of the real line with a continuous derivative, h(v) being nearly standard normal.

    With w = (v - centre)/scale, the three kinds are

    .. math::
        \text{outliers:}\quad & h = w \text{ for } |w| \le c, \quad
            h = \pm\sqrt{c^2 + 2 \log(1 + c (|w| - c))} \text{ beyond, with } c = 3.5,

        \text{heavy:}\quad & h = \pm\sqrt{k \log(1 + w^2/k)}, \text{ k = left for w < 0 and k = right for w > 0},

        \text{skewed:}\quad & h = (\operatorname{asinh}(\sinh b + g \cosh(b)\, w) - b)/g.

    The first leaves the bulk as it is, and gives a normal density the tails of a generalised Pareto density of index 1
    (Pickands 1975). The second is Wallace's (1959) normal score of Student's t with k degrees of freedom, here with a
    number of its own on each side. The third is Johnson's (1949) system SU, written such that h is w for small w; a
    large |b| makes it a logarithm, and h of a log-normal column is normal.

    Args:
        kind: "outliers", "heavy" or "skewed".
        centre, scale: in the units of the column; the scale is positive.
        left, right: the indices k of the two tails, positive. Only for heavy tails.
        skew, growth: b, and the positive g. Only for skewed columns.

    Raises:
        ValueError: if the kind is not known, a number is not finite, or one that must be positive is not.
    """

    kind: str
    centre: float
    scale: float
    left: float = 1.0
    right: float = 1.0
    skew: float = 0.0
    growth: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected {', '.join(KINDS)}, got {self.kind!r}")
        for name in ("centre", "scale", "left", "right", "skew", "growth"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ValueError(f"{name}: expected a finite number, got {value}")
            if name not in ("centre", "skew") and value <= 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        if abs(self.skew) > STEEPEST:
            raise ValueError(f"skew: expected a number from -{STEEPEST:g} to {STEEPEST:g}, got {self.skew}")

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """h(v) and log dh/dv, shaped like v, which is float64."""
        w = (v - self.centre) / self.scale
        h, log_slope = getattr(self, f"_{self.kind}")(w)
        return h, log_slope - math.log(self.scale)

    def inverse(self, h: Tensor) -> Tensor:
        """v for h(v) in float64."""
        w: Tensor = getattr(self, f"_{self.kind}_inverse")(h)
        return self.centre + self.scale * w

    def _outliers(self, w: Tensor) -> tuple[Tensor, Tensor]:
        growth = torch.log1p(BEND * (w.abs() - BEND).clamp(min=0))
        h = torch.where(w.abs() > BEND, w.sign() * (BEND**2 + 2 * growth).sqrt(), w)
        return h, torch.where(w.abs() > BEND, math.log(BEND) - h.abs().log() - growth, 0.0)

    def _outliers_inverse(self, h: Tensor) -> Tensor:
        beyond = torch.expm1((h.square() - BEND**2).clamp(min=0) / 2) / BEND
        return torch.where(h.abs() > BEND, h.sign() * (BEND + beyond), h)

    def _index(self, w: Tensor) -> Tensor:
        """k on the side of each w."""
        return torch.where(w < 0, w.new_tensor(self.left), w.new_tensor(self.right))

    def _heavy(self, w: Tensor) -> tuple[Tensor, Tensor]:
        k = self._index(w)
        far = w.abs() > 1e150  # whose square is infinite
        growth = torch.where(far, 2 * w.abs().log() - k.log(), torch.log1p(w.square() / k))
        h = w.sign() * (k * growth).sqrt()
        ratio = torch.where(w.abs() < 1e-100, torch.ones_like(w), w / h)  # 1 at 0
        return h, ratio.log() - growth

    def _heavy_inverse(self, h: Tensor) -> Tensor:
        k = self._index(h)
        growth = h.square() / k
        # Where expm1 is infinite its root is not.
        return h.sign() * torch.where(growth > 600, k.sqrt() * (growth / 2).exp(), (k * torch.expm1(growth)).sqrt())

    def _skewed(self, w: Tensor) -> tuple[Tensor, Tensor]:
        y = math.sinh(self.skew) + self.growth * math.cosh(self.skew) * w
        return (torch.asinh(y) - self.skew) / self.growth, math.log(math.cosh(self.skew)) - y.hypot(
            torch.ones_like(y)
        ).log()

    def _skewed_inverse(self, h: Tensor) -> Tensor:
        half = 0.5 * self.growth * h  # sinh(b + 2 half) - sinh(b), without cancellation
        return 2 * torch.cosh(self.skew + half) * torch.sinh(half) / (self.growth * math.cosh(self.skew))

    def to_dict(self) -> dict[str, Any]:
        """The map in a word and numbers, which JSON holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ColumnMap:
        """The map that `to_dict` wrote.

        Raises:
            ValueError, TypeError, KeyError: if a key is not known or missing, or a value is wrong.
        """
        numbers = dict(values)
        return cls(str(numbers.pop("kind")), **{name: float(value) for name, value in numbers.items()})
