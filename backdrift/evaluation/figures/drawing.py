"""What the figures share: colours, arrays, coordinates, grids of images and histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata
from torch import Tensor

GENERATED, REAL, PALE = "#c0392b", "#1f5a94", "#8fa3b5"
"""Colours of generated samples, of real ones, and of what stands in the background."""

DPI = 110
"""Dots of every figure for an inch."""


def to_array(x: Tensor) -> np.ndarray:
    """A tensor on any device as a float64 array."""
    return x.detach().cpu().double().numpy()


def to_image(x: Tensor) -> np.ndarray:
    """An image `[channels, height, width]` as matplotlib wants it: channels last or none, clipped to [0, 1]."""
    image = to_array(x).clip(0, 1).transpose(1, 2, 0)
    return image[..., :3] if image.shape[-1] >= 3 else image[..., 0]


def image_grid(x: Tensor, columns: int, cell: int = 56, gap: int = 8) -> np.ndarray:
    """Images `[n, channels, height, width]` side by side in one RGB picture.

    Args:
        x: the images, with values in [0, 1].
        columns: images in a row.
        cell: about how many screen pixels an image is wide, enlarged without smoothing.
        gap: white pixels between two images.
    """
    images = [np.stack([i] * 3, -1) if i.ndim == 2 else i for i in map(to_image, x)]
    scale = max(1, round(cell / max(images[0].shape[:2])))
    height, width = (scale * s + gap for s in images[0].shape[:2])
    canvas = np.ones((math.ceil(len(images) / columns) * height - gap, columns * width - gap, 3))
    for k, image in enumerate(images):
        top, left = (k // columns) * height, (k % columns) * width
        canvas[top : top + height - gap, left : left + width - gap] = image.repeat(scale, 0).repeat(scale, 1)
    return canvas


def side_by_side(
    grids: Sequence[np.ndarray],
    titles: Sequence[str],
    gap: int = 36,
    edge: int = 18,
    title: int = 44,
    fontsize: int = 13,
) -> Figure:
    """Grids of images side by side, with exactly one screen pixel for each of their pixels.

    Args:
        grids: see `image_grid`.
        titles: over each.
        gap: pixels between two grids.
        edge: pixels beside and below them.
        title: pixels above them.
        fontsize: of the titles, in points.
    """
    height = title + max(grid.shape[0] for grid in grids) + edge
    width = sum(grid.shape[1] for grid in grids) + gap * (len(grids) - 1) + 2 * edge
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    left = edge
    for grid, name in zip(grids, titles, strict=False):
        rows, columns = grid.shape[:2]
        axes = figure.add_axes((left / width, 1 - (title + rows) / height, columns / width, rows / height))
        axes.imshow(grid, interpolation="none", aspect="auto")
        axes.set_axis_off()
        axes.set_title(name, fontsize=fontsize)
        left += columns + gap
    return figure


def shared_coordinates(
    a: np.ndarray, b: np.ndarray, most: int, columns: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Two sets in at most `most` coordinates, with the names of the axes.

    Where the columns are few enough, they are drawn as they are. Of more columns those of `most_correlated` are drawn,
    in standard units of the second set: a column in metres and one in millimetres then count the same.

    Args:
        a: samples, `[n, d]`.
        b: samples, `[m, d]`, which set the standard units and the choice of columns.
        most: number of coordinates at most.
        columns: the names of the columns; without them they are x1, x2, …
    """
    d = b.shape[1]
    names = [f"x{k + 1}" for k in range(d)] if columns is None else list(map(plain_label, columns))
    if d <= most:
        return a, b, names
    chosen = most_correlated(b, most)
    centre, scale = standard_units(b[:, chosen])
    labels = [f"{names[k]} (standardised)" for k in chosen]
    return (a[:, chosen] - centre) / scale, (b[:, chosen] - centre) / scale, labels


def choice_in_words(shown: int, columns: int) -> str:
    """The title of a figure that shows so many of the columns; empty if it shows all."""
    return f"the {shown} most correlated of {columns} columns" if shown < columns else ""


def most_correlated(x: np.ndarray, most: int) -> list[int]:
    """The numbers of the columns of x `[n, d]` that depend on each other most, in their order.

    The first two have the largest rank correlation (Spearman 1904), whatever its sign. Each further one has the
    largest with one of those that are chosen already.
    """
    ranks = rankdata(x, axis=0)
    ranks -= ranks.mean(0)
    ranks /= np.maximum(np.linalg.norm(ranks, axis=0), 1e-300)  # a column with one value is correlated with nothing
    strength = np.abs(ranks.T @ ranks)
    np.fill_diagonal(strength, -1.0)
    chosen = [int(strength.max(1).argmax())]
    while len(chosen) < min(most, x.shape[1]):
        nearest = strength[:, chosen].max(1)
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


def standard_units(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The median of each column of x `[n, d]`, and half the width of its middle 68 %.

    For normal columns these are the mean and the standard deviation. A few outliers do not change them. A column whose
    middle 68 % are one value has its standard deviation instead, and a column with a single value has 1.
    """
    low, centre, high = np.quantile(x, (0.16, 0.5, 0.84), axis=0)
    scale = 0.5 * (high - low)
    scale = np.where(scale > 0, scale, x.std(0))
    return centre, np.where(scale > 0, scale, 1.0)


def plain_label(name: str, most: int = 24) -> str:
    """A name of the user's as a label: no dollar sign begins a formula, and the middle of a long one is left out."""
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"
    return name.replace("$", r"\$")


def marker_area(points: np.ndarray) -> float:
    """The area of a marker, in points squared: larger for few samples `[n, ...]`, which small markers would hide."""
    return float(np.clip(2500 / len(points), 4, 14))


def padded_limits(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper end of each axis: the range of the points, widened by a sixth on either side."""
    low, high = points.min(0), points.max(0)
    margin = np.maximum(high - low, 1e-6) / 6
    return low - margin, high + margin


def histograms(axes: Axes, sets: Sequence[np.ndarray], names: Sequence[str] = ("generated", "real (test set)")) -> None:
    """Histograms of generated numbers `[n]` and perhaps of real ones, as outlines over the range of the last set."""
    low, high = padded_limits(sets[-1])
    edges = np.linspace(low, high, 41).tolist()
    for points, colour, name in reversed(list(zip(sets, (GENERATED, REAL), names, strict=False))):
        axes.hist(points, bins=edges, density=True, histtype="step", lw=1.3, color=colour, label=name)
    axes.set_yticks([])


def axis_label(unit: str) -> str:
    """The name of an axis of likelihoods in such a unit."""
    return "log-density (nats)" if unit == "nats" else unit
