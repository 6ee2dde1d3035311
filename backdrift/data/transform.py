"""The monotone maps of the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backdrift.data.column_map import ColumnMap
from backdrift.data.outliers import column_name

TOLD = 5
"""Columns that a message names."""


@dataclass(frozen=True)
class Transform:
    r"""A map of each column of a table, or None for a column that stays as it is.

    The log-densities of a row v and of h(v) differ by the Jacobian of the map, which is diagonal:

    .. math:: \log p(v) = \log p_h(h(v)) + \sum_j \log h_j'(v_j).

    Args:
        maps: one for each column.
    """

    maps: tuple[ColumnMap | None, ...]

    def forward(self, values: Tensor) -> Tensor:
        """h(v) in float64, for rows v `[n, columns]`."""
        return self._with_slope(values)[0]

    def log_slope(self, values: Tensor) -> Tensor:
        """The sum over columns of log h'(v) in nats, `[n]`, for rows v `[n, columns]`."""
        return self._with_slope(values)[1]

    def inverse(self, h: Tensor) -> Tensor:
        """v in float64, for rows h(v) `[n, columns]`."""
        columns = [
            column if chosen is None else chosen.inverse(column)
            for chosen, column in zip(self.maps, h.double().unbind(1), strict=True)
        ]
        return torch.stack(columns, 1)

    def _with_slope(self, values: Tensor) -> tuple[Tensor, Tensor]:
        columns, slope = [], torch.zeros(len(values), dtype=torch.float64, device=values.device)
        for chosen, column in zip(self.maps, values.double().unbind(1), strict=True):
            if chosen is not None:
                column, log_slope = chosen.forward(column)
                slope = slope + log_slope
            columns.append(column)
        return torch.stack(columns, 1), slope

    @property
    def mapped(self) -> list[int]:
        """The numbers of the columns that have a map."""
        return [number for number, chosen in enumerate(self.maps) if chosen is not None]

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """The kind of each map."""
        return tuple(None if chosen is None else chosen.kind for chosen in self.maps)

    def told(self, columns: Sequence[str] | None) -> str | None:
        """Which columns are mapped because of their tails or their skewness, in words, or None if none are.

        Args:
            columns: the names of all columns, or None.
        """
        words = {"heavy": "heavy tails", "skewed": "skewed"}
        named = [
            f"{column_name(number, columns)} ({words[chosen.kind]})"
            for number, chosen in enumerate(self.maps)
            if chosen is not None and chosen.kind in words
        ]
        if not named:
            return None
        more = f" and {len(named) - TOLD} more" if len(named) > TOLD else ""
        return f"a monotone map makes these columns nearly normal: {', '.join(named[:TOLD])}{more}"

    def difference(self, other: Transform) -> Tensor:
        """How far the centres and the scales of two transforms of the same kinds are apart, in parts of the scales."""
        pairs = [(a, b) for a, b in zip(self.maps, other.maps, strict=True) if a is not None and b is not None]
        return torch.tensor([[(b.centre - a.centre) / a.scale, b.scale / a.scale - 1] for a, b in pairs])

    def to_list(self) -> list[dict[str, Any] | None]:
        """The maps in lists, numbers and words, which JSON holds."""
        return [None if chosen is None else chosen.to_dict() for chosen in self.maps]

    @classmethod
    def from_list(cls, maps: Sequence[dict[str, Any] | None]) -> Transform:
        """The transform that `to_list` wrote.

        Raises:
            ValueError, TypeError, KeyError: if a map is wrong.
        """
        return cls(tuple(None if values is None else ColumnMap.from_dict(values) for values in maps))
