"""Generated samples, beside real ones where there are some."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from backdrift.evaluation.figures.drawing import (
    DPI,
    GENERATED,
    REAL,
    choice_in_words,
    histograms,
    image_grid,
    marker_area,
    padded_limits,
    shared_coordinates,
    side_by_side,
    to_array,
)


def samples(
    generated: Tensor,
    real: Tensor | None = None,
    names: tuple[str, str] = ("generated", "real (test set)"),
    columns: Sequence[str] | None = None,
) -> Figure:
    """Generated samples beside real ones: grids of images, lines for series, scatters for vectors.

    Of vectors with more than four columns the four that are correlated most are shown, see `shared_coordinates`.

    Args:
        generated: `[n, ...]`.
        real: `[m, ...]`, samples of the same shape; without them the generated ones are drawn alone.
        names: titles of the two.
        columns: the names of the components of vectors.
    """
    sets = [generated] if real is None else [generated, real]
    kind = generated.ndim - 1
    if kind == 3:
        rows = max(1, min(8, *(math.isqrt(len(x)) for x in sets)))
        return side_by_side([image_grid(x[: rows * rows], rows) for x in sets], names)
    if kind == 2:
        return _lines(sets, names)
    a, b, labels = shared_coordinates(to_array(generated), to_array(sets[-1]), 4, columns)
    clouds = [a] if real is None else [a, b]
    if len(labels) == 2:
        return _clouds(clouds, labels, names)
    return _pairs(clouds, labels, names, choice_in_words(len(labels), generated.shape[1]))


def by_class(
    generated: Tensor,
    labels: Tensor,
    names: Sequence[str],
    most: int = 10,
    title: str = "generated, a row for each class",
) -> Figure:
    """Generated pictures in rows, one row for each class, with its name before it.

    Args:
        generated: `[n, channels, height, width]`, brightness in [0, 1].
        labels: the class of each picture, `[n]`.
        names: of the classes 0, 1, …
        most: pictures in a row at most.
        title: of the figure.
    """
    present = labels.unique().tolist()
    rows = [generated[labels == label][:most] for label in present]
    columns = min(len(row) for row in rows)
    grid = image_grid(torch.cat([row[:columns] for row in rows]), columns)
    height, wide = grid.shape[:2]
    left, top = 30 + 9 * max(len(names[label]) for label in present), 44
    figure = Figure(figsize=((left + wide + 18) / DPI, (top + height + 18) / DPI), dpi=DPI)
    size = (left + wide + 18, top + height + 18)
    axes = figure.add_axes((left / size[0], 18 / size[1], wide / size[0], height / size[1]))
    axes.imshow(grid, interpolation="none", aspect="auto")
    axes.set_title(title, fontsize=13)
    middles = [(k + 0.5) * height / len(rows) - 0.5 for k in range(len(rows))]
    axes.set_yticks(middles, [names[label] for label in present], fontsize=11)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _lines(sets: Sequence[Tensor], names: Sequence[str], rows: int = 5) -> Figure:
    """The first series of each set in a column."""
    figure = Figure(figsize=(4.6 * len(sets), 6.4), dpi=DPI, layout="constrained")
    rows = min(rows, *map(len, sets))
    panels = figure.subplots(rows, len(sets), sharex=True, sharey=True, squeeze=False)
    for column, (x, name, colour) in enumerate(zip(sets, names, (GENERATED, REAL), strict=False)):
        panels[0, column].set_title(name)
        panels[-1, column].set_xlabel("position")
        if column == 0:
            panels[rows // 2, 0].set_ylabel("value")
        for axes, series in zip(panels[:, column], to_array(x), strict=False):
            axes.plot(series.T, lw=1, color=colour, alpha=0.8)
    return figure


def _clouds(sets: Sequence[np.ndarray], labels: Sequence[str], names: Sequence[str]) -> Figure:
    """Points in the plane, a panel for each set, over the range of the last set."""
    figure = Figure(figsize=(4.6 * len(sets), 4.6), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0]
    low, high = padded_limits(sets[-1])
    for axes, points, name, colour in zip(panels, sets, names, (GENERATED, REAL), strict=False):
        axes.scatter(*points.T, s=marker_area(points), color=colour, alpha=0.5, lw=0)
        axes.set(title=f"{name}, {len(points)}", xlabel=labels[0], ylabel=labels[1])
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return figure


def _pairs(sets: Sequence[np.ndarray], labels: Sequence[str], names: Sequence[str], title: str = "") -> Figure:
    """Every two coordinates against each other, with the histogram of each on the diagonal."""
    d = len(labels)
    size = max(4.4, 2.4 * d)
    figure = Figure(figsize=(size, size), dpi=DPI, layout="constrained")
    figure.suptitle(title or " and ".join(names[: len(sets)]), fontsize=11)
    panels = figure.subplots(d, d, squeeze=False)
    low, high = padded_limits(sets[-1])
    for i in range(d):
        for j in range(d):
            axes = panels[i, j]
            if i == j:
                histograms(axes, [points[:, i] for points in sets], names)
            elif i > j:
                for points, colour in reversed(list(zip(sets, (GENERATED, REAL), strict=False))):
                    axes.scatter(points[:, j], points[:, i], s=marker_area(points), color=colour, alpha=0.5, lw=0)
                axes.set_ylim(low[i], high[i])
            else:
                axes.set_axis_off()
                continue
            axes.set_xlim(low[j], high[j])
            axes.tick_params(labelsize=7)
            axes.locator_params(nbins=4)  # numbers such as 100000 are wide
            if i == d - 1:
                axes.set_xlabel(labels[j], fontsize=8)
            if j == 0 and i > 0:
                axes.set_ylabel(labels[i], fontsize=8)
    handles, texts = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper right", frameon=False)
    return figure
