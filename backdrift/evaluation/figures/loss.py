"""The training loss by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from backdrift.evaluation.figures.drawing import DPI, PALE, REAL


def loss_curve(steps: Sequence[float], losses: Sequence[float], window: int = 50) -> Figure:
    """The training loss by step: each record pale, with the running mean over `window` records on top."""
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
