"""A confusion matrix: true classes against predicted ones."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from backdrift.evaluation.figures.drawing import DPI, plain_label, to_array

MOST = 20
"""Classes up to which every cell has its number, and every row its name."""


def confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """How many samples of each true class have each predicted class.

    Cells are shaded by their share of the row. Those of at most `MOST` classes hold their numbers.

    Args:
        counts: `[classes, classes]`, rows for the true classes and columns for the predicted ones.
        names: of the classes.
    """
    matrix = to_array(counts)
    k = len(matrix)
    share = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    size = 2.2 + 0.42 * min(k, MOST)
    figure = Figure(figsize=(size + 0.3, size), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="most probable class", ylabel="true class", title="classes of the test set")
    if k > MOST:
        return figure
    labels = [plain_label(name, 12) for name in names]
    axes.set_xticks(range(k), labels, rotation=0 if max(map(len, labels)) < 4 else 90, fontsize=9)
    axes.set_yticks(range(k), labels, fontsize=9)
    for i in range(k):
        for j in range(k):
            if matrix[i, j]:
                shade = "white" if share[i, j] > 0.5 else "black"
                axes.text(j, i, f"{matrix[i, j]:.0f}", ha="center", va="center", color=shade, fontsize=8)
    return figure
