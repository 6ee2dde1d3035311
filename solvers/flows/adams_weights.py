"""The weights of Adams methods on nodes with any spacing, for each sample separately, in Newton's form."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.quadrature import gauss_legendre

MOST = 6
"""The largest number of earlier values that a step uses."""


@functools.cache
def _rule() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], exact for the polynomials of degree `MOST`. An import does not wait for them."""
    return gauss_legendre(MOST // 2 + 1, 0.0, 1.0)


class AdamsWeights(NamedTuple):
    """The weights of the Adams methods with k = 1 to m earlier values, for a step of dz/dp = F(z, p) from p_0 to p'.

    The values are F_0 = F(z_0, p_0) and earlier ones F_1, F_2, ..., and F' at the predicted state at p'. Of every
    method the row is k - 1, and the columns are the values. All weights are `[m, m + 1, n]`, with F' in column 0.

    Attributes:
        predict: of the step by the polynomial through F_0 to F_(k-1) (Adams-Bashforth). Column 0 is 0.
        correct: of what is added to it by the polynomial through F' as well (Adams-Moulton).
        error: of the difference between the corrected step, and that of the polynomial through F' and F_0 to F_(k-2).
            The latter has a local error of order k + 1, which the difference estimates.
    """

    predict: Tensor
    correct: Tensor
    error: Tensor


def adams_weights(nodes: Tensor) -> AdamsWeights:
    r"""The weights of a step from `nodes[1]` to `nodes[0]`.

    With the divided differences F[p_0, ..., p_j] = sum_i F_i / prod_(l != i) (p_i - p_l), Newton's form of the
    polynomials gives

    .. math::

        z_k = z_0 + \sum_{j<k} F[p_0 ... p_j] \int_{p_0}^{p'} \prod_{i<j} (p - p_i) dp, \qquad
        z'_k = z_k + F[p', p_0 ... p_{k-1}] \int_{p_0}^{p'} \prod_{i<k} (p - p_i) dp

    for the predicted and the corrected step, and for the error the same divided difference times the integral of
    (p - p') prod_(i<k-1) (p - p_i). (Hairer, Nørsett & Wanner 1993, section III.5, after Shampine & Gordon 1975.)

    Args:
        nodes: p' and then p_0 to p_(m-1), `[m + 1, n]` in float64. Nodes of values that do not exist have to differ
            from the others.
    """
    m = len(nodes) - 1
    all_differences, differences = divided_differences(nodes), divided_differences(nodes[1:])
    newton = newton_integrals(nodes[1], nodes[0], nodes[1:])
    alternative = newton_integrals(nodes[1], nodes[0], nodes[:-1])
    predict = torch.zeros_like(all_differences[1:])
    predict[:, 1:] = (newton[:m, None] * differences).cumsum(0)
    return AdamsWeights(predict, newton[1:, None] * all_differences[1:], alternative[1:, None] * all_differences[1:])


def divided_differences(nodes: Tensor) -> Tensor:
    """The weights of the values in the divided differences over the first r + 1 nodes, `[r, node, n]`, r = 0 to m - 1.

    Args:
        nodes: `[m, n]`.
    """
    m = len(nodes)
    one = torch.eye(m, dtype=nodes.dtype, device=nodes.device).unsqueeze(-1)
    products = (nodes.unsqueeze(0) - nodes.unsqueeze(1) + one).cumprod(0)  # [r, node, n] of p_node - p_l over l <= r
    lower = torch.ones(m, m, dtype=torch.bool, device=nodes.device).tril().unsqueeze(-1)
    return torch.where(lower, 1 / products, 0)


def newton_integrals(start: Tensor, end: Tensor, nodes: Tensor) -> Tensor:
    """The integrals from `start` to `end` of 1, (p - p_0), (p - p_0)(p - p_1), ..., `[m + 1, n]`.

    Args:
        start, end: `[n]`.
        nodes: `[m, n]`.
    """
    step = end - start
    nodes_of_rule, weights_of_rule = _rule()
    inside = start + step * nodes_of_rule.to(start).unsqueeze(1)
    products = (inside - nodes.unsqueeze(1)).cumprod(0)
    weights = step * weights_of_rule.to(start).unsqueeze(1)
    return torch.cat([step.unsqueeze(0), (products * weights).sum(1)])
