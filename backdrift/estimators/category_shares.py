"""The probabilities of the combinations of categories of a table."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

ROUNDS = 50
"""Rounds of expectation and maximisation, where categories are missing in some rows."""

STRENGTHS = np.geomspace(1e-2, 1e2, 25)
"""Weights of the columns' own shares that are tried, over the number of rows."""


def krichevsky_trofimov(fits: np.ndarray) -> np.ndarray:
    """The share of each combination with 1/2 added to its count (Krichevsky & Trofimov 1981), `[combinations]`.

    Args:
        fits: which combinations a row may have, `[n, combinations]`. A row with a missing category counts in parts,
            which expectation and maximisation find.
    """
    share = np.full(fits.shape[1], 1 / fits.shape[1])
    for _ in range(1 if (fits.sum(1) == 1).all() else ROUNDS):
        part = fits * share
        counts = (part / part.sum(1, keepdims=True)).sum(0) + 0.5 * (fits.shape[1] > 1)
        share = counts / counts.sum()
    return share


def shrunk_to_independence(codes: np.ndarray, sizes: list[int], levels: np.ndarray) -> np.ndarray:
    r"""The share of each of many combinations, most of which no row has, `[combinations]`:

    .. math:: P(c) = \frac{n_c + \lambda \prod_k P_k(c_k)}{n + \lambda},

    with the counts n_c and the shares P_k of the levels of each column, to whose counts 1/2 is added. lambda makes each
    row most likely given all others (Good 1965).

    Args:
        codes: the numbers of the levels, -1 for a missing one, `[n, categories]`.
        sizes: how many levels each category has.
        levels: the levels of each combination, in the order of `numpy.ravel_multi_index`, `[combinations, categories]`.
    """
    alone = [np.bincount(code[code >= 0], minlength=size) + 0.5 for code, size in zip(codes.T, sizes, strict=True)]
    product = np.prod([one[k] / one.sum() for one, k in zip(alone, levels.T, strict=True)], axis=0)
    complete = (codes >= 0).all(1)
    number = np.ravel_multi_index(tuple(codes[complete].T), sizes)
    counts = np.bincount(number, minlength=len(levels)).astype(float)
    n = counts.sum()
    strengths = STRENGTHS * max(n, 1)
    likely = [xlogy(counts, np.maximum(counts - 1, 0) + s * product).sum() - n * np.log(n - 1 + s) for s in strengths]
    strength = strengths[int(np.argmax(likely))] if n else 1.0
    share = product
    partly = ((levels[None] == codes[~complete, None]) | (codes[~complete, None] == -1)).all(2)
    for _ in range(ROUNDS if len(partly) else 1):
        part = partly * share
        found = counts + (part / part.sum(1, keepdims=True)).sum(0)
        share = (found + strength * product) / (found.sum() + strength)
    return share
