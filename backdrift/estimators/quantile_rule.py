"""Expectations over one number from a few of its quantiles, also where its tails are heavy."""

from __future__ import annotations

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import ndtr, ndtri
from scipy.stats import norm

CELLS = 64
"""Cells of equal probability. Each but those of the tails has one node, in its middle."""

TAIL_CELLS = 8
"""Cells at each end that make up a tail."""

TAIL_NODES = 12
"""Nodes of each tail."""

FARTHEST = 7.0
"""Where a tail ends, in standard deviations of the normal noise. Beyond there is 1e-12 of the probability."""


def quantile_rule() -> tuple[np.ndarray, np.ndarray]:
    r"""Nodes z of normal noise and their weights w, `[72]` each, so that for an increasing y(z)

    .. math:: E[f(y)] \approx \sum_k w_k f(y(z_k)).

    Between the levels 1/8 and 7/8 it is the midpoint rule on levels, which a gap between two modes does not disturb. In
    each tail it is the rule of Gauss and Legendre on z. Of 64 equal quantiles the outermost has the level 1/128, by
    which the mean of a log-normal density comes out too small: by 2% where log y has the standard deviation 1, and by
    18% where it is 2.
    """
    level = (np.arange(TAIL_CELLS, CELLS - TAIL_CELLS) + 0.5) / CELLS
    place, weight = leggauss(TAIL_NODES)
    half = (ndtri(TAIL_CELLS / CELLS) + FARTHEST) / 2
    z = half * (place + 1) - FARTHEST
    tail = weight * norm.pdf(z)
    tail *= TAIL_CELLS / CELLS / tail.sum()
    nodes = np.concatenate([z, ndtri(level), -z[::-1]])
    return nodes, np.concatenate([tail, np.full(len(level), 1 / CELLS), tail[::-1]])


def rank_probability_score(y: np.ndarray, values: np.ndarray) -> np.ndarray:
    r"""The continuous ranked probability score of y, `[n]`, from the values at the nodes of `quantile_rule`:

    .. math:: \int_0^1 2 (1[y < q_a] - a) (q_a - y)\, da,

    with the quantiles q_a (Gneiting & Raftery 2007, eq. 21).

    Args:
        y: what happened, `[n]`.
        values: increasing, `[n, nodes]`.
    """
    z, weight = quantile_rule()
    gap = values - y[:, None]
    return (2 * ((gap > 0) - ndtr(z)) * gap * weight).sum(1)
