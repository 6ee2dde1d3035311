"""Samples on their way from noise to data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from torch import Tensor

from backdrift.evaluation.figures.drawing import (
    DPI,
    GENERATED,
    histograms,
    image_grid,
    marker_area,
    padded_limits,
    shared_coordinates,
    to_array,
)


def trajectory(
    path: Tensor,
    times: Sequence[float],
    real: Tensor,
    stds: Sequence[float] | None = None,
    columns: Sequence[str] | None = None,
) -> Figure:
    """Samples on their way from noise to data.

    Images are drawn as a strip for each sample, series as snapshots. Vectors are drawn as paths over the density of
    the data, with snapshots beside it.

    Args:
        path: states `[k, n, ...]`, the first pure noise, the last data, scaled to the data's spread.
        times: t of each state, `[k]`.
        real: data `[m, ...]`, drawn for comparison.
        stds: sigma/alpha of each state, written beneath the times if it is given.
        columns: the names of the components of vectors.
    """
    titles = [f"t = {t:.2g}" for t in times]
    if stds is not None:
        titles = [rf"{title}" "\n" rf"$\sigma/\alpha$ = {_short(s)}" for title, s in zip(titles, stds, strict=True)]
    kind = real.ndim - 1
    if kind == 3:
        return _strips(path, titles)
    shown = sorted({round(i * (len(titles) - 1) / 4) for i in range(5)})
    if kind == 2:
        return _snapshots_of_series(path, titles, shown)
    both, reference, labels = shared_coordinates(to_array(path.flatten(0, 1)), to_array(real), 2, columns)
    states = both.reshape(*path.shape[:2], -1)
    if states.shape[2] == 1:
        return _paths_on_a_line(states, reference, times, titles, shown, labels[0])
    return _paths_in_the_plane(states, reference, titles, shown, labels)


def _snapshots_of_series(path: Tensor, titles: Sequence[str], shown: Sequence[int]) -> Figure:
    """The first channel of six series at the states `shown`."""
    figure = Figure(figsize=(2.6 * len(shown), 3.5), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, k in zip(panels, shown, strict=True):
        axes.plot(to_array(path[k])[:6, 0].T, lw=1, color=GENERATED, alpha=0.7)
        axes.set_title(titles[k], fontsize=10)
        axes.set_xlabel("position")
    panels[0].set_ylabel("value")
    return figure


def _paths_on_a_line(
    states: np.ndarray,
    real: np.ndarray,
    times: Sequence[float],
    titles: Sequence[str],
    shown: Sequence[int],
    label: str,
) -> Figure:
    """Sixty paths against time, and the histogram of all samples at the states `shown`."""
    figure = Figure(figsize=(2.6 * (len(shown) + 1), 3.5), dpi=DPI, layout="constrained")
    first, *rest = figure.subplots(1, 1 + len(shown))
    first.plot(times, states[:, :60, 0], lw=0.7, color=GENERATED, alpha=0.6)
    first.invert_xaxis()
    first.set(xlabel="t", ylabel=label)
    first.set_title("paths", fontsize=10)
    for axes, k in zip(rest, shown, strict=True):
        histograms(axes, [states[k, :, 0], real[:, 0]])
        axes.set_xlabel(label)
        axes.set_title(titles[k], fontsize=10)
    return figure


def _paths_in_the_plane(
    states: np.ndarray, real: np.ndarray, titles: Sequence[str], shown: Sequence[int], labels: Sequence[str]
) -> Figure:
    """Forty paths over the density of the data, and all samples at the states `shown`."""
    figure = Figure(figsize=(2.6 * (len(shown) + 1), 3.5), dpi=DPI, layout="constrained")
    first, *rest = figure.subplots(1, 1 + len(shown))
    _density(first, real, states.reshape(-1, 2))
    first.plot(states[:, :40, 0], states[:, :40, 1], lw=0.7, color=GENERATED, alpha=0.55)
    first.scatter(*states[-1, :40].T, s=8, color=GENERATED, zorder=3)
    first.set(xlabel=labels[0], ylabel=labels[1], box_aspect=1)
    first.set_title("paths, over the data", fontsize=10)
    limits = first.get_xlim(), first.get_ylim()
    for axes, k in zip(rest, shown, strict=True):
        axes.scatter(*states[k].T, s=marker_area(states[k]), color=GENERATED, alpha=0.6, lw=0)
        axes.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[], box_aspect=1, xlabel=labels[0])
        axes.set_title(titles[k], fontsize=10)
    return figure


def _strips(path: Tensor, titles: Sequence[str], rows: int = 6) -> Figure:
    """A row of images for each of the first samples, with the times above."""
    rows, gap, margin, top = min(rows, path.shape[1]), 8, 18, 78
    grid = image_grid(path[:, :rows].transpose(0, 1).flatten(0, 1), len(titles), gap=gap)
    height, width = grid.shape[0] + top + margin, grid.shape[1] + 2 * margin
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((margin / width, margin / height, grid.shape[1] / width, grid.shape[0] / height))
    axes.imshow(grid, interpolation="none", aspect="auto")
    axes.set_axis_off()
    figure.text(0.5, 1 - 8 / height, "from noise to data", ha="center", va="top", fontsize=11)
    cell = (grid.shape[1] + gap) / len(titles)
    for k, title in enumerate(titles):
        axes.text((k + 0.5) * cell - gap / 2, -8, title, ha="center", va="bottom", fontsize=6.5)
    return figure


def _short(value: float) -> str:
    """A number with two digits, in at most five characters."""
    if value >= 10:
        return f"{value:.0f}" if value < 1e4 else f"{value:.0e}"
    return f"{value:.2g}" if value >= 0.1 else f"{value:.2f}" if value >= 0.005 else f"{value:.0e}" if value else "0"


def _density(axes: Axes, points: np.ndarray, others: np.ndarray) -> None:
    """Filled contours of a kernel density estimate, over the range of both."""
    low, high = padded_limits(np.concatenate((points, np.quantile(others, (0.005, 0.995), axis=0))))
    x, y = (np.linspace(low[k], high[k], 80) for k in range(2))
    grid = np.stack(np.meshgrid(x, y))
    height = gaussian_kde(points[:1000].T, bw_method=0.15)(grid.reshape(2, -1)).reshape(80, 80)
    axes.contourf(x, y, height, levels=12, cmap="Blues", alpha=0.8)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
