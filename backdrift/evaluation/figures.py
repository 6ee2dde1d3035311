"""Pictures of data, samples, paths and likelihoods. Each function returns a matplotlib `Figure`.

Every function takes data in the units a person reads: images as `[n, channels, height, width]` with
values in [0, 1] (one channel is drawn in grey, three in colour), series as `[n, channels, length]`,
vectors as `[n, d]`. No state of pyplot is touched; save a figure with `figure.savefig(path)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from torch import Tensor

GENERATED, REAL, PALE = "#c0392b", "#1f5a94", "#8fa3b5"
DPI = 110


def samples(generated: Tensor, real: Tensor, names: tuple[str, str] = ("generated", "real (test set)")) -> Figure:
    """Generated samples beside real ones: grids of images, lines for series, scatters for vectors.

    Vectors of more than four components are shown along the first four principal axes of the real ones.

    Args:
        generated: `[n, ...]`.
        real: `[m, ...]`, samples of the same shape.
        names: titles of the two.
    """
    kind = real.ndim - 1
    if kind == 3:
        rows = max(1, min(8, math.isqrt(len(generated)), math.isqrt(len(real))))
        grids = [_grid(x[: rows * rows], rows) for x in (generated, real)]
        return _pictures(grids, names)
    if kind == 2:
        return _lines(generated, real, names)
    a, b, labels = _coordinates(_array(generated), _array(real), most=4)
    return _clouds(a, b, labels, names) if a.shape[1] == 2 else _pairs(a, b, labels, names)


def trajectory(path: Tensor, times: Sequence[float], real: Tensor, stds: Sequence[float] | None = None) -> Figure:
    """Samples on their way from noise to data: a strip a sample for images, paths over the data's density
    and snapshots for vectors, snapshots for series.

    Args:
        path: states `[k, n, ...]`, the first pure noise, the last data, scaled to the data's spread.
        times: t of each state, `[k]`.
        real: data `[m, ...]`, drawn for comparison.
        stds: sigma/alpha of each state where that says more than t; written beneath the times.
    """
    titles = [f"t = {t:.2g}" for t in times]
    if stds is not None:
        titles = [rf"{title}" "\n" rf"$\sigma/\alpha$ = {_short(s)}" for title, s in zip(titles, stds, strict=True)]
    kind = real.ndim - 1
    if kind == 3:
        return _strips(path, titles)
    shown = sorted({round(i * (len(titles) - 1) / 4) for i in range(5)})
    figure = Figure(figsize=(2.6 * (len(shown) + (kind == 1)), 3.5), dpi=DPI, layout="constrained")
    if kind == 2:
        for axes, k in zip(figure.subplots(1, len(shown), sharey=True), shown, strict=True):
            axes.plot(_array(path[k])[:6, 0].T, lw=1, color=GENERATED, alpha=0.7)
            axes.set_title(titles[k], fontsize=10)
            axes.set_xlabel("position")
        return figure
    flat, reference = _array(path.flatten(0, 1)), _array(real)
    both, reference, labels = _coordinates(flat, reference, most=2)
    states = both.reshape(*path.shape[:2], -1)
    first, *rest = figure.subplots(1, 1 + len(shown))
    if states.shape[2] == 1:
        first.plot(times, states[:, :60, 0], lw=0.7, color=GENERATED, alpha=0.6)
        first.invert_xaxis()
        first.set(xlabel="t", ylabel=labels[0])
        first.set_title("paths", fontsize=10)
        for axes, k in zip(rest, shown, strict=True):
            _histogram(axes, states[k], reference)
            axes.set_title(titles[k], fontsize=10)
        return figure
    _density(first, reference, states.reshape(-1, 2))
    first.plot(states[:, :40, 0], states[:, :40, 1], lw=0.7, color=GENERATED, alpha=0.55)
    first.scatter(*states[-1, :40].T, s=8, color=GENERATED, zorder=3)
    first.set(xlabel=labels[0], ylabel=labels[1], box_aspect=1)
    first.set_title("paths, over the data", fontsize=10)
    limits = first.get_xlim(), first.get_ylim()
    for axes, k in zip(rest, shown, strict=True):
        axes.scatter(*states[k].T, s=3, color=GENERATED, alpha=0.6, lw=0)
        axes.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[], box_aspect=1)
        axes.set_title(titles[k], fontsize=10)
    return figure


def loss_curve(steps: Sequence[float], losses: Sequence[float], window: int = 50) -> Figure:
    """The training loss by step, each record pale and the running mean over `window` records on top."""
    figure = Figure(figsize=(6.4, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    x, y = np.asarray(steps, float), np.asarray(losses, float)
    long = len(y) > 2 * window
    axes.plot(x, y, color=PALE if long else REAL, lw=0.8 if long else 1.6, label="as recorded")
    if long:
        mean = np.convolve(y, np.full(window, 1 / window), "valid")
        axes.plot(x[window // 2 :][: len(mean)], mean, color=REAL, lw=1.6, label=f"mean of {window} records")
    axes.set(xlabel="step", ylabel="loss")
    if len(y) and 0 < 10 * y.min() < y.max():
        axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def likelihood_histogram(values: Mapping[str, Tensor], unit: str) -> Figure:
    """Histograms over samples of one likelihood, a colour for each set, with their means as lines.

    Args:
        values: name of a set to its values, `[n]` each.
        unit: of the values, e.g. "bits/dim".
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    arrays = {name: _array(v) for name, v in values.items()}
    together = np.concatenate(list(arrays.values()))
    edges = np.histogram_bin_edges(together, bins=min(40, math.ceil(math.sqrt(len(together))))).tolist()
    for colour, (name, v) in zip((REAL, GENERATED, PALE), arrays.items(), strict=False):
        axes.hist(v, bins=edges, density=True, color=colour, alpha=0.55, label=f"{name}, mean {v.mean():.3g}")
        axes.axvline(v.mean(), color=colour, lw=1.5)
    axes.set(xlabel=_named(unit), ylabel="density")
    axes.legend(frameon=False)
    return figure


def most_and_least_likely(x: Tensor, values: Tensor, unit: str, most_is: str = "low", n: int = 10) -> Figure:
    """The `n` most and the `n` least likely samples of a set, each with its value.

    Args:
        x: samples `[m, ...]`: images and series are drawn; vectors are marked on a scatter of all.
        values: their likelihoods, `[m]`.
        unit: of the values.
        most_is: whether the most likely have "low" values (bits/dim) or "high" ones (log-densities).
    """
    order = values.argsort(descending=most_is == "high")
    n = min(n, len(order) // 2)
    groups = {f"most likely ({unit})": order[:n], f"least likely ({unit})": order.flip(0)[:n]}
    kind = x.ndim - 1
    if kind == 1:
        return _marked(_array(x), _array(values), unit)
    figure = Figure(figsize=(0.85 * n + 0.4, 3.2), dpi=DPI)
    largest = max(float(values[chosen].abs().max()) for chosen in groups.values())
    decimals = max(0, 2 - math.floor(math.log10(max(largest, 1.0))))  # three digits of the largest, for all
    for half, (title, chosen) in enumerate(groups.items()):
        bottom = 0.5 * (1 - half)
        figure.text(0.02, bottom + 0.42, title, fontsize=11)
        for i, index in enumerate(chosen.tolist()):
            axes = figure.add_axes((0.02 + i * 0.97 / n, bottom + 0.09, 0.88 / n, 0.3))
            if kind == 3:
                axes.imshow(_image(x[index]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            else:
                axes.plot(_array(x[index]).T, lw=0.8, color=REAL)
            axes.set_axis_off()
            axes.set_title(f"{float(values[index]):.{decimals}f}", fontsize=9, y=-0.24, va="center")
    return figure


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def _image(x: Tensor) -> np.ndarray:
    """`[channels, height, width]` as matplotlib wants it, clipped to [0, 1]."""
    image = _array(x).clip(0, 1).transpose(1, 2, 0)
    return image[..., :3] if image.shape[-1] >= 3 else image[..., 0]


def _grid(x: Tensor, columns: int, cell: int = 56, gap: int = 8) -> np.ndarray:
    """Images `[n, channels, height, width]` as one RGB picture, nearest-neighbour upscaled, with white gaps."""
    images = [np.stack([i] * 3, -1) if i.ndim == 2 else i for i in map(_image, x)]
    scale = max(1, round(cell / max(images[0].shape[:2])))
    height, width = (scale * s + gap for s in images[0].shape[:2])
    canvas = np.ones((math.ceil(len(images) / columns) * height - gap, columns * width - gap, 3))
    for k, image in enumerate(images):
        top, left = (k // columns) * height, (k % columns) * width
        canvas[top : top + height - gap, left : left + width - gap] = image.repeat(scale, 0).repeat(scale, 1)
    return canvas


def _pictures(grids: Sequence[np.ndarray], titles: Sequence[str], margin: int = 36, title: int = 44) -> Figure:
    """Grids side by side at exactly one screen pixel for a pixel."""
    height = max(g.shape[0] for g in grids) + title + margin // 2
    width = sum(g.shape[1] for g in grids) + margin * len(grids)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    left = margin / 2
    for grid, name in zip(grids, titles, strict=True):
        rows, columns = grid.shape[:2]
        axes = figure.add_axes((left / width, 1 - (title + rows) / height, columns / width, rows / height))
        axes.imshow(grid, interpolation="none", aspect="auto")
        axes.set_axis_off()
        axes.set_title(name, fontsize=13)
        left += columns + margin
    return figure


def _strips(path: Tensor, titles: Sequence[str], rows: int = 6) -> Figure:
    rows, gap, margin, top = min(rows, path.shape[1]), 8, 18, 52
    grid = _grid(path[:, :rows].transpose(0, 1).flatten(0, 1), len(titles), gap=gap)
    height, width = grid.shape[0] + top + margin, grid.shape[1] + 2 * margin
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((margin / width, margin / height, grid.shape[1] / width, grid.shape[0] / height))
    axes.imshow(grid, interpolation="none", aspect="auto")
    axes.set_axis_off()
    cell = (grid.shape[1] + gap) / len(titles)
    for k, title in enumerate(titles):
        axes.text((k + 0.5) * cell - gap / 2, -8, title, ha="center", va="bottom", fontsize=6.5)
    return figure


def _short(value: float) -> str:
    """Two digits, in at most five characters."""
    if value >= 10:
        return f"{value:.0f}" if value < 1e4 else f"{value:.0e}"
    return f"{value:.2g}" if value >= 0.1 else f"{value:.2f}" if value >= 0.005 else f"{value:.0e}" if value else "0"


def _coordinates(a: np.ndarray, b: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Both sets in at most `most` coordinates: their own, or the principal axes of the second set."""
    d = b.shape[1]
    if d <= most:
        return a, b, [f"x{k + 1}" for k in range(d)]
    mean = b.mean(0)
    _, spread, axes = np.linalg.svd(b - mean, full_matrices=False)
    share = spread**2 / max((spread**2).sum(), 1e-300)
    labels = [f"axis {k + 1} ({100 * share[k]:.0f} % of variance)" for k in range(most)]
    return (a - mean) @ axes[:most].T, (b - mean) @ axes[:most].T, labels


def _clouds(a: np.ndarray, b: np.ndarray, labels: Sequence[str], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(9.2, 4.6), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    low, high = _limits(b)
    for axes, points, name, colour in zip(panels, (a, b), names, (GENERATED, REAL), strict=True):
        axes.scatter(*points.T, s=6, color=colour, alpha=0.5, lw=0)
        axes.set(title=f"{name}, {len(points)}", xlabel=labels[0], ylabel=labels[1])
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return figure


def _pairs(a: np.ndarray, b: np.ndarray, labels: Sequence[str], names: Sequence[str]) -> Figure:
    """Every two coordinates against each other, each alone as a histogram on the diagonal."""
    d = len(labels)
    size = max(4.4, 2.4 * d)
    figure = Figure(figsize=(size, size), dpi=DPI, layout="constrained")
    panels = figure.subplots(d, d, squeeze=False)
    low, high = _limits(b)
    for i in range(d):
        for j in range(d):
            axes = panels[i, j]
            if i == j:
                _histogram(axes, a[:, [i]], b[:, [i]], names)
            elif i > j:
                for points, colour in ((b, REAL), (a, GENERATED)):
                    axes.scatter(points[:, j], points[:, i], s=4, color=colour, alpha=0.35, lw=0)
                axes.set_ylim(low[i], high[i])
            else:
                axes.set_axis_off()
                continue
            axes.set_xlim(low[j], high[j])
            axes.tick_params(labelsize=7)
            if i == d - 1:
                axes.set_xlabel(labels[j], fontsize=8)
            if j == 0 and i > 0:
                axes.set_ylabel(labels[i], fontsize=8)
    handles, texts = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper right", frameon=False)
    return figure


def _lines(a: Tensor, b: Tensor, names: Sequence[str], rows: int = 5) -> Figure:
    figure = Figure(figsize=(9.2, 6.4), dpi=DPI, layout="constrained")
    rows = min(rows, len(a), len(b))
    panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    for column, (x, name, colour) in enumerate(zip((a, b), names, (GENERATED, REAL), strict=True)):
        panels[0, column].set_title(name)
        panels[-1, column].set_xlabel("position")
        for axes, series in zip(panels[:, column], _array(x), strict=False):
            axes.plot(series.T, lw=1, color=colour, alpha=0.8)
    return figure


def _named(unit: str) -> str:
    """What is measured in the unit: bits/dim say it themselves."""
    return "log-density (nats)" if unit == "nats" else unit


def _marked(x: np.ndarray, values: np.ndarray, unit: str) -> Figure:
    """Vectors coloured by their value."""
    points, _, labels = _coordinates(x, x, most=2)
    figure = Figure(figsize=(6, 4.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    y = points[:, 1] if points.shape[1] > 1 else values
    shown = axes.scatter(points[:, 0], y, c=values, s=10, cmap="viridis", lw=0)
    figure.colorbar(shown, label=_named(unit))
    axes.set(xlabel=labels[0], ylabel=labels[1] if len(labels) > 1 else _named(unit))
    return figure


def _histogram(
    axes: Axes, a: np.ndarray, b: np.ndarray, names: Sequence[str] = ("generated", "real (test set)")
) -> None:
    low, high = _limits(b)
    edges = np.linspace(low[0], high[0], 41).tolist()
    for points, colour, name in ((b, REAL, names[1]), (a, GENERATED, names[0])):
        axes.hist(points[:, 0], bins=edges, density=True, histtype="step", lw=1.3, color=colour, label=name)
    axes.set_yticks([])


def _limits(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The range of the points and a sixth of it on either side: outliers of the other set do not set the scale."""
    low, high = points.min(0), points.max(0)
    margin = np.maximum(high - low, 1e-6) / 6
    return low - margin, high + margin


def _density(axes: Axes, points: np.ndarray, others: np.ndarray) -> None:
    """Filled contours of a kernel density estimate, over the range of both."""
    low, high = _limits(np.concatenate((points, np.quantile(others, (0.005, 0.995), axis=0))))
    x, y = (np.linspace(low[k], high[k], 80) for k in range(2))
    grid = np.stack(np.meshgrid(x, y))
    height = gaussian_kde(points[:1000].T, bw_method=0.15)(grid.reshape(2, -1)).reshape(80, 80)
    axes.contourf(x, y, height, levels=12, cmap="Blues", alpha=0.8)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
