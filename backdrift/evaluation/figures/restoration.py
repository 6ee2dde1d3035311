"""Restored pictures: what was seen, several samples of the posterior, their mean and their spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from backdrift.evaluation.figures.drawing import image_grid, side_by_side


def restoration(panels: Sequence[tuple[str, Tensor]], per_row: Sequence[int], most: int = 8) -> Figure:
    """Groups of pictures side by side, with a row for each observation and a title over each group.

    Args:
        panels: the title and the pictures of each group, `[n * k, channels, height, width]` in [0, 1], where k is the
            number of pictures that an observation has in the group.
        per_row: k of each group.
        most: rows at most.
    """
    grids = [image_grid(pictures[: most * k], k) for (_, pictures), k in zip(panels, per_row, strict=True)]
    return side_by_side(grids, [title for title, _ in panels], gap=24, edge=24, fontsize=9)


def stretched(pictures: Tensor) -> Tensor:
    """Pictures of any range `[n, ...]` as values from 0 to 1, each by itself."""
    flat = pictures.double().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low).clamp(min=np.finfo(float).tiny)).reshape(pictures.shape)


def hidden_in_grey(pictures: Tensor, hidden: Tensor) -> Tensor:
    """Pictures `[n, channels, height, width]` whose hidden components are drawn in a light grey."""
    return torch.where(hidden, torch.full_like(pictures, 0.75), pictures)
