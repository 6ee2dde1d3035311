"""The training loss by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from backdrift.evaluation.figures.drawing import DPI, GENERATED, PALE, REAL


def loss_curve(
    steps: Sequence[float], losses: Sequence[float], window: int = 50, held_out: Mapping[int, float] | None = None
) -> Figure:
    """The training loss by step: each record pale, with the running mean over `window` records on top.

    Args:
        steps: of the records.
        losses: of the records.
        window: of the mean.
        held_out: the loss on held-out samples by step, where it was measured.
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    x, y = np.asarray(steps, float), np.asarray(losses, float)
    long = len(y) > 2 * window
    marker = "o" if len(y) == 1 else ""  # a line through one point is not seen
    axes.plot(x, y, marker=marker, ms=4, color=PALE if long else REAL, lw=0.8 if long else 1.6, label="as recorded")
    if long:
        mean = np.convolve(y, np.full(window, 1 / window), "valid")
        axes.plot(x[window // 2 :][: len(mean)], mean, color=REAL, lw=1.6, label=f"mean of {window} records")
    if held_out:
        at = sorted(held_out)
        axes.plot(at, [held_out[step] for step in at], "o-", color=GENERATED, ms=4, lw=1, label="held-out samples")
    axes.set(xlabel="step", ylabel="loss", title="training loss")
    if len(y) and 0 < 10 * y.min() < y.max():
        axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure
