"""The linear map after which the covariance of the rows of a table is the identity."""

from __future__ import annotations

import numpy as np
from sklearn.covariance import ledoit_wolf

LEAST_SPREAD = 1e-6
"""The least standard deviation of an axis, in those of the columns. Without it the density of a column that is a
linear function of the others would be infinite."""


def whitening(rows: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, float]:
    """W such that W u has the covariance I, and log|det W| in nats, for the covariance of Ledoit & Wolf (2004).

    The first large component of each axis is positive. Without this rule the signs would follow rounding errors, and a
    network trained in other units would be another one.

    Args:
        rows: u, of mean 0, `[n, d]`.
        least: the least standard deviation of an axis.
    """
    variances, axes = np.linalg.eigh(ledoit_wolf(rows, assume_centered=True)[0])
    variances = np.maximum(variances, least**2)
    size = np.abs(axes)
    first = (size > 0.5 * size.max(0)).argmax(0)
    axes = axes * np.sign(axes[first, np.arange(len(axes))])
    return (axes / np.sqrt(variances)).T, float(-0.5 * np.log(variances).sum())
