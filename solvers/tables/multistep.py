"""The weights of multistep solvers: exact integrals of the polynomials through values at points of a grid."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor

from backdrift.solvers.quadrature import gauss_legendre
from backdrift.solvers.tables.grid import Points, spread_angle
from backdrift.solvers.tables.table import Number

Clock = Literal["wide_angle", "angle", "log_snr", "sigma", "time"]

_NODES, _WEIGHTS = gauss_legendre(32, 0.0, 1.0)

WIDE = 3.5
"""The centre of the clock "wide_angle", atan(s/(3.5 d)), in units of the data's width d.

Fitted for `Adams()` by `benchmarks/defaults.py clock`. Its error changes by less than 5% from 2.5 to 5.
"""


def clock_of(points: Points, clock: Clock, data_std: float) -> Tensor:
    """The variable of the polynomials at given points. "angle" is the variable of the grid with this name."""
    if clock == "log_snr":
        return points.lam
    if clock == "sigma":
        return points.ratio
    if clock == "time":
        return points.t
    if clock == "angle":
        return spread_angle(points.ratio, data_std)
    return torch.atan(points.ratio / (WIDE * data_std))


def lagrange(at: Tensor, nodes: Tensor) -> Tensor:
    """The Lagrange basis polynomials on `nodes` `[steps, m]` at the places `at` `[steps, q]`, as `[steps, m, q]`."""
    basis = []
    for j in range(nodes.shape[1]):
        others = [i for i in range(nodes.shape[1]) if i != j]
        product = torch.ones_like(at)
        for i in others:
            product = product * (at - nodes[:, i : i + 1]) / (nodes[:, j : j + 1] - nodes[:, i : i + 1])
        basis.append(product)
    return torch.stack(basis, 1)


def integrate(
    points: Points,
    steps: slice,
    lags: list[int],
    density: Callable[[Points], Tensor],
    clock: Callable[[Points], Tensor],
) -> Tensor:
    """The integrals of a density times each Lagrange basis polynomial l_j over some steps k, `[steps, len(lags)]`:

        integral from lambda_k to lambda_(k+1) of density l_j dlambda.

    They are computed by Gauss-Legendre quadrature in lambda with 32 nodes.

    Args:
        points: the grid.
        steps: the steps k.
        lags: the nodes of the polynomials of step k are the points k - lag, for each lag.
        density: the density per unit of lambda, `[steps, nodes]` at points of this shape.
        clock: the variable of the polynomials at given points.
    """
    index = torch.arange(len(points) - 1, device="cpu")[steps]
    start, end = points.lam[index, None], points.lam[index + 1, None]
    inside = points.at_lambda(start + (end - start) * _NODES)
    measure = (end - start) * _WEIGHTS * density(inside)
    basis = lagrange(clock(inside), clock(points)[index[:, None] - torch.tensor(lags, device="cpu")])
    return (basis * measure[:, None]).sum(-1)


Weights = Callable[[Points, slice, list[int]], Tensor]
"""A function of (points, steps, lags) that returns the weights of the values at the points k - lag, for each step k and
each lag, `[steps, len(lags)]`."""


def ramp(points: Points, values: float, newest: int, weights: Weights) -> list[tuple[Number, ...]]:
    """The weights of every step of the grid, with the newest value first.

    The first steps use as many values as there are, and the later ones use `values` of them.

    Args:
        points: the grid.
        values: the number of values that a step uses. A half is a mean: the weights for 2.5 values are the mean of
            those for 2 and for 3.
        newest: the lag of the newest value: 0 for a predictor, -1 for a corrector, which uses the end of the step too.
        weights: the weights of some steps with given lags.
    """
    low, share = int(values), values % 1
    found: list[tuple[Number, ...]] = []
    n = len(points) - 1
    for used in range(1, low + 1):
        # Step k can use its own start and all points before it, and with newest = -1 its end as well.
        last = n if used == low else min(used + newest, n)
        if len(found) < last:
            found += listed(weights(points, slice(len(found), last), list(range(newest, newest + used))))
    if not share:
        return found
    more = ramp(points, low + 1, newest, weights)
    return [
        tuple((1 - share) * a + share * b for a, b in zip_longest(fewer, row, fillvalue=0.0))
        for fewer, row in zip(found, more, strict=True)
    ]


def require_history(order: float | None, steps: int) -> None:
    """Raise `ValueError` if `order` is above 2 but there is a single step, which has only one value."""
    if order is not None and order > 2 and steps == 1:
        raise ValueError(f"order: {order:g} values cannot come from 1 step; take more steps, or order=1")


def listed(array: Tensor) -> list[tuple[Number, ...]]:
    """The rows of a matrix as tuples of numbers, or as tuples of 0-d tensors if the matrix requires gradients."""
    if array.requires_grad:
        return [tuple(row.unbind()) for row in array]
    return [tuple(row) for row in array.tolist()]
