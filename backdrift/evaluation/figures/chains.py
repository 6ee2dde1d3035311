"""Figures of Markov chains: their traces, and their draws over the density."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backdrift.evaluation.figures.drawing import DPI, GENERATED, PALE, REAL
from backdrift.models.targets import ExampleDensity
from backdrift.solvers import Chains

SHOWN = 1500
"""Points of a trace and of a scatter. More cannot be told apart by eye."""


def slowest(chains: Chains, most: int) -> list[int]:
    """The components with the fewest effective draws, in their own order."""
    ess = torch.nan_to_num(chains.ess("bulk").flatten(), nan=0.0)
    return sorted(ess.argsort()[:most].tolist())


def trace(chains: Chains, names: Sequence[str]) -> Figure:
    """The slowest components and the log-density along each chain, with the histogram of each chain beside.

    Args:
        chains: draws `[chains, draws, d]`.
        names: of the components.
    """
    values = [(names[i], chains.draws[..., i].double().numpy()) for i in slowest(chains, 3)]
    if chains.log_prob is not None:
        values.append(("log p + const", chains.log_prob.double().numpy()))
    figure = Figure(figsize=(10, 0.4 + 1.9 * len(values)), dpi=DPI, layout="constrained")
    figure.suptitle("the slowest components and the log-density along the chains")
    panels = figure.subplots(len(values), 2, squeeze=False, width_ratios=(4, 1), sharey="row")
    every = max(1, values[0][1].shape[1] // SHOWN)
    for (name, series), (left, right) in zip(values, panels, strict=True):
        bins = _bins(series, 0.001)
        steps = np.arange(0, series.shape[1], every)
        for i, chain in enumerate(series[:8]):
            left.plot(steps, chain[::every], lw=0.5, alpha=0.7, color=f"C{i}")
            right.hist(chain, bins, orientation="horizontal", histtype="step", density=True, color=f"C{i}", lw=0.9)
        left.set_ylabel(name)
        left.set_xlim(0, series.shape[1])
        right.set_xticks([])
    panels[-1, 0].set_xlabel("draw")
    panels[-1, 1].set_xlabel("density of each chain")
    return figure


def density(chains: Chains, target: ExampleDensity, reference: Chains | None = None) -> Figure:
    """The draws over the density.

    In the plane these are the density itself and the histogram of the draws. In more dimensions they are pairs of the
    slowest components, over exact draws or those of a reference, if there are any.

    Args:
        chains: draws `[chains, draws, d]`.
        target: the density that they are drawn from.
        reference: another run, to draw beneath.
    """
    draws = chains.draws.double().flatten(0, 1)
    if target.dim == 2:
        return _plane(draws, target)
    under, name = None, ""
    if target.mean is not None:
        under, name = target.sample(4 * SHOWN, torch.Generator().manual_seed(0)), "exact draws"
    elif reference is not None:
        under, name = reference.draws.double().flatten(0, 1), "long MALA run"
    return _pairs(draws, under, target.coordinates, slowest(chains, 4), name)


def _bins(values: np.ndarray, cut: float, n: int = 60) -> list[float]:
    """Edges of histogram bins, from the quantile `cut` to the quantile 1 - `cut`."""
    low, high = np.quantile(values, (cut, 1 - cut)).tolist()
    return np.linspace(low, high, n).tolist()


def _some(x: torch.Tensor) -> np.ndarray:
    return x[:: max(1, len(x) // SHOWN)].numpy()


def _plane(draws: torch.Tensor, target: ExampleDensity) -> Figure:
    """The density of the plane beside the histogram of the draws, both per unit area."""
    low, high = np.quantile(draws.numpy(), (0.0005, 0.9995), axis=0)
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    edges = [np.linspace(a, b, 121) for a, b in zip(low, high, strict=True)]
    middles = [torch.from_numpy(0.5 * (e[1:] + e[:-1])) for e in edges]
    points = torch.cartesian_prod(*middles)
    # A cell of the histogram is four cells of the density.
    area = float(np.prod([e[1] - e[0] for e in edges]))
    exact = target.log_prob(points).softmax(0).reshape(120, 120).numpy() / area
    coarse = [e[::2] for e in edges]
    x, y = draws.numpy().T
    counts = np.histogram2d(x, y, bins=(coarse[0], coarse[1]))[0] / (4 * area * len(draws))
    figure = Figure(figsize=(9.4, 4.6), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, heat, title, cells in (
        (left, exact, "density", edges),
        (right, counts, f"{len(draws)} draws", coarse),
    ):
        axes.pcolormesh(*cells, heat.T, cmap="Blues", vmin=0, vmax=exact.max(), rasterized=True)
        axes.set(title=title, xlabel=target.coordinates[0])
    levels = exact.max() * np.array([0.01, 0.1, 0.4, 0.8])
    right.contour(*(m.numpy() for m in middles), exact.T, levels=levels, colors=GENERATED, linewidths=0.7)
    left.set_ylabel(target.coordinates[1])
    return figure


def _pairs(
    draws: torch.Tensor, under: torch.Tensor | None, names: Sequence[str], shown: Sequence[int], under_name: str
) -> Figure:
    d = len(shown)
    figure = Figure(figsize=(2.4 * d, 2.4 * d), dpi=DPI, layout="constrained")
    figure.suptitle("pairs of the slowest components", fontsize=11)
    panels = figure.subplots(d, d, squeeze=False)
    both = draws if under is None else torch.cat((draws, under))
    low, high = np.quantile(both.numpy(), (0.002, 0.998), axis=0)
    for row, i in enumerate(shown):
        for column, j in enumerate(shown):
            axes: Axes = panels[row, column]
            if column > row:
                axes.set_axis_off()
                continue
            if row == column:
                bins = _bins(both[:, i].numpy(), 0.002)
                if under is not None:
                    axes.hist(under[:, i].numpy(), bins, density=True, color=PALE, label=under_name)
                axes.hist(draws[:, i].numpy(), bins, density=True, histtype="step", color=GENERATED, label="draws")
                axes.set_yticks([])
            else:
                for points, colour in ((under, REAL), (draws, GENERATED)):
                    if points is not None:
                        some = _some(points)
                        axes.scatter(some[:, j], some[:, i], s=4, color=colour, alpha=0.35, lw=0)
                axes.set_ylim(low[i], high[i])
            axes.set_xlim(low[j], high[j])
            axes.tick_params(labelsize=7)
            if row == d - 1:
                axes.set_xlabel(names[j], fontsize=8)
            if column == 0 and row > 0:
                axes.set_ylabel(names[i], fontsize=8)
    handles, texts = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper right", frameon=False)
    return figure
