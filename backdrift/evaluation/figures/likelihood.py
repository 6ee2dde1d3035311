"""Likelihoods of samples: their histogram, and the samples at its two ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from backdrift.evaluation.figures.drawing import (
    DPI,
    GENERATED,
    PALE,
    REAL,
    axis_label,
    shared_coordinates,
    to_array,
    to_image,
)
from backdrift.solvers.confidence import counted


def likelihood_histogram(values: Mapping[str, Tensor], unit: str) -> Figure:
    """Histograms of likelihoods, in one colour for each set of samples, with the means as lines.

    Args:
        values: the likelihoods of each set, `[n]`, by the name of the set.
        unit: of the values, e.g. "bits/dim".
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    arrays = {name: to_array(v) for name, v in values.items()}
    together = np.concatenate(list(arrays.values()))
    edges = np.histogram_bin_edges(together, bins=min(40, math.ceil(math.sqrt(len(together))))).tolist()
    for colour, (name, v) in zip(itertools.cycle((REAL, GENERATED, PALE)), arrays.items(), strict=False):
        axes.hist(v, bins=edges, density=True, color=colour, alpha=0.55, label=f"{name}, mean {v.mean():.3g}")
        axes.axvline(v.mean(), color=colour, lw=1.5)
    axes.set(xlabel=axis_label(unit), ylabel="density", title="likelihoods")
    axes.legend(frameon=False)
    return figure


def most_and_least_likely(
    x: Tensor,
    values: Tensor,
    unit: str,
    most_is: str = "low",
    n: int = 10,
    columns: Sequence[str] | None = None,
) -> Figure:
    """The `n` most and the `n` least likely samples of a set, each with its value.

    Args:
        x: samples `[m, ...]`: images and series are drawn; vectors are marked on a scatter of all.
        values: their likelihoods, `[m]`.
        unit: of the values.
        most_is: whether the most likely samples have "low" values (bits/dim) or "high" ones (log-densities).
        n: how many samples are drawn at either end; at most half of the set. A single sample is drawn once.
        columns: the names of the components of vectors.
    """
    order = values.argsort(descending=most_is == "high")
    n = min(n, max(1, len(order) // 2))
    groups = {f"most likely ({unit})": order[:n], f"least likely ({unit})": order.flip(0)[:n]}
    if len(order) == 1:
        groups = {f"one sample ({unit})": order}
    kind = x.ndim - 1
    if kind == 1:
        return _marked(to_array(x), to_array(values), unit, columns)
    rows = len(groups)
    figure = Figure(figsize=(max(0.85 * n + 0.4, 2.8), 1.6 * rows), dpi=DPI)
    largest = max(float(values[chosen].abs().max()) for chosen in groups.values())
    decimals = max(0, 2 - math.floor(math.log10(max(largest, 1.0))))  # three digits of the largest, for all
    for row, (title, chosen) in enumerate(groups.items()):
        bottom = 1 - (row + 1) / rows
        figure.text(0.02, bottom + 0.84 / rows, title, fontsize=11)
        for i, index in enumerate(chosen.tolist()):
            axes = figure.add_axes((0.02 + i * 0.97 / n, bottom + 0.18 / rows, 0.88 / n, 0.6 / rows))
            if kind == 3:
                axes.imshow(to_image(x[index]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            else:
                axes.plot(to_array(x[index]).T, lw=0.8, color=REAL)
            axes.set_axis_off()
            axes.set_title(f"{float(values[index]):.{decimals}f}", fontsize=9, y=-0.24, va="center")
    return figure


def _marked(x: np.ndarray, values: np.ndarray, unit: str, columns: Sequence[str] | None) -> Figure:
    """Vectors coloured by their value."""
    points, _, labels = shared_coordinates(x, x, 2, columns)
    figure = Figure(figsize=(6, 4.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    y = points[:, 1] if points.shape[1] > 1 else values
    shown = axes.scatter(points[:, 0], y, c=values, s=10, cmap="viridis", lw=0)
    figure.colorbar(shown, label=axis_label(unit))
    axes.set(xlabel=labels[0], ylabel=labels[1] if len(labels) > 1 else axis_label(unit))
    axes.set_title(f"likelihoods of {counted(len(x))}", fontsize=11)
    return figure
