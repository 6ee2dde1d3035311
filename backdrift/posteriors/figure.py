"""One picture of a posterior: the draws of each parameter, and what its diagnosis found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from backdrift.posteriors.diagnosis import Diagnosis

MOST = 8
"""Parameters that are drawn. The title says where there are more."""

COLUMNS = 4
"""Histograms beside one another."""


def posterior_figure(
    draws: np.ndarray, names: Sequence[str], diagnosis: Diagnosis, support: tuple[np.ndarray, np.ndarray]
) -> Figure:
    """Histograms of the draws with their central 90%, and below them the ranks and the coverage.

    Args:
        draws: `[n, d]`.
        names: of the parameters.
        diagnosis: what is drawn below.
        support: lower and upper bounds of the prior, `[d]`, infinite where there is none. A bound is a dotted line
            where it lies near the draws.
    """
    shown = min(len(names), MOST)
    rows = math.ceil(shown / COLUMNS)
    figure = Figure(figsize=(10, 2.4 * rows + 3.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.4 * rows, 3.6])
    above, below = parts
    for j, axes in enumerate(np.atleast_1d(above.subplots(rows, min(shown, COLUMNS), squeeze=False)).flat):
        if j >= shown:
            axes.set_axis_off()
            continue
        low, middle, high = np.quantile(draws[:, j], [0.05, 0.5, 0.95])
        axes.hist(draws[:, j], bins=40, density=True, color="#8fa3b5")
        axes.axvspan(low, high, color="#1f5a94", alpha=0.12)
        axes.axvline(middle, color="#1f5a94")
        reach = np.ptp(draws[:, j])
        for bound in (support[0][j], support[1][j]):
            if np.isfinite(bound) and np.abs(draws[:, j] - bound).min() < reach:
                axes.axvline(bound, color="0.3", linestyle=":")
        axes.set_yticks([])
        axes.set_xlabel(names[j])
    rest = f", the first {MOST} of {len(names)} parameters" if len(names) > MOST else ""
    above.suptitle(f"draws of the posterior, median and central 90%{rest}")
    left, right = below.subplots(1, 2)
    diagnosis.draw(left, right, names)
    below.suptitle("calibration on simulations that were held back: " + ("passed" if diagnosis.passed else "failed"))
    return figure
