"""Sums over the combinations of categories, by an estimate with its error where there are too many combinations."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

HEAD = 32
"""Terms of a sum that are computed in any case: those that a closed form takes for the largest."""

TAIL = 32
"""Terms that are drawn from the others. A sum of no more than `HEAD` + `TAIL` terms is exact."""


class Terms(NamedTuple):
    """The terms that a sum over combinations is computed from, for each row.

    Attributes:
        combination: their numbers, `[n, terms]`.
        log_count: log of the number of terms that each of them stands for: 0 for a term that is counted once, minus
            infinity for one that is not counted, `[n, terms]`.
    """

    combination: Tensor
    log_count: Tensor


def chosen_terms(log_guess: Tensor, log_prior: Tensor, uniform: Tensor) -> Terms:
    r"""The largest terms of a sum, and draws that stand for all others.

    The terms that are not among the largest are drawn with the probabilities

    .. math:: q_c = \frac12 \frac{g_c}{\sum_{c'} g_{c'}} + \frac12 \frac{\pi_c}{\sum_{c'} \pi_{c'}},

    with the guesses g of the terms and the prior pi, and each draw stands for 1/(`TAIL` q_c) terms. The estimate of the
    sum has no bias. The prior's half keeps it good where the guess is far too small (Hesterberg 1995).

    Args:
        log_guess: log g of each combination, minus infinity for those that are not summed over, `[n, combinations]`.
        log_prior: log pi, `[combinations]`.
        uniform: numbers between 0 and 1 that decide the draws, `[n, TAIL]` or `[1, TAIL]`.
    """
    n, count = log_guess.shape
    top = log_guess.topk(min(HEAD + TAIL, count), dim=1)
    counted = torch.where(top.values.isneginf(), -math.inf, 0.0).double()
    if count <= HEAD + TAIL:
        return Terms(top.indices, counted)
    head = top.indices[:, :HEAD]
    rest = log_guess.scatter(1, head, -math.inf)
    prior = torch.where(rest.isneginf(), -math.inf, log_prior)
    many = log_guess.isfinite().sum(1) > HEAD + TAIL
    share = torch.where(many[:, None], (rest.softmax(1) + prior.softmax(1)) / 2, 1 / count)
    bounds = share.cumsum(1)
    drawn = torch.searchsorted(bounds, uniform.expand(n, -1) * bounds[:, -1:]).clamp(max=count - 1)
    log_count = torch.cat([counted[:, :HEAD], -(TAIL * share.gather(1, drawn)).log()], 1)
    several = Terms(torch.cat([head, drawn], 1), log_count)
    return Terms(*(torch.where(many[:, None], a, b) for a, b in zip(several, (top.indices, counted), strict=True)))


def log_sum(log_terms: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """The log of the sum and its standard error, 0 where the sum is exact, `[n]` each.

    Args:
        log_terms: the logs of the terms, `[n, terms]`.
        terms: which ones they are.
    """
    logs = torch.where(terms.log_count.isneginf(), -math.inf, log_terms + terms.log_count)
    total = logs.logsumexp(1)
    share = (logs[:, HEAD:] - total[:, None]).exp().nan_to_num()
    drawn = (terms.log_count[:, HEAD:] != 0).any(1) & terms.log_count[:, HEAD:].isfinite().all(1)
    error = share.std(1) * math.sqrt(TAIL) if share.shape[1] > 1 else torch.zeros_like(total)
    return total, torch.where(drawn, error, 0.0)
