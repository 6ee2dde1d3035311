"""Coordinates in which the probability flow has no linear part, one for each kind of prediction.

With y = x/N, for a scale N(t), the flow becomes dy/dzeta = value. The value is an affine function of x and the
denoiser, and each kind of prediction has its own time zeta:

    predict       y                   zeta                    value
    denoised      x/sigma             exp(lambda)             D
    noise         x/alpha             s = sigma/alpha         (x - alpha D)/sigma
    velocity      x/(alpha R)         phi = atan(s/d)         -F, the preconditioned network's output
    rectified     x/(alpha (s + c))   s/(s + c)               (x - alpha D)/sigma - D/c

where R^2 = s^2 + d^2, d is the data's standard deviation, and c is the width of the data's finer structure.

A method is exact if the value is constant along the flow, so it matters which data each kind is exact for:

- "denoised" (Lu et al. 2022b) and "noise" (Lu et al. 2022a, prop. 3.1) are exact if all data lie at one point.
- "velocity" is exact for normal data of standard deviation d, for which its value is 0. Here y is a rotation of data
  and noise by the angle phi.
- "rectified" is exact if all data lie at one point, and nearly exact in directions much wider than c. Here y moves
  along the straight line from data, in units of c, to noise, with the velocity of rectified flow (Liu, Gong & Liu
  2022). It lies between "denoised" and "noise", which are its limits as c tends to 0 and to infinity.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.tables.grid import Points

Predict = Literal["denoised", "noise", "velocity", "rectified"]

FINE = 0.3
"""c/d of the coordinates "rectified" by default. Runge-Kutta methods use it; `Adams` has `FINE_OVER_REACH` instead.

It was fitted for `Adams()` when that used one c/d for every number of steps. For Runge-Kutta methods it is too small:
`benchmarks/defaults.py coordinates` finds the error of the method of order 4 to be 39% smaller at 2.
"""


class Coordinates(NamedTuple):
    """The coordinates of a kind of prediction at points of a grid. Each attribute is an array over the points.

    Attributes:
        scale: N, with y = x/N.
        zeta: the time of y.
        slope: the slope of P = D + slope x. P is the value up to a factor, in the form that tables use.
        factor: the factor in dy/dzeta = factor P.
        density: d zeta/d lambda.
    """

    scale: Tensor
    zeta: Tensor
    slope: Tensor
    factor: Tensor
    density: Tensor


def coordinates(points: Points, predict: Predict, data_std: float = 1.0, fine: float = FINE) -> Coordinates:
    """The coordinates of a kind of prediction at given points.

    Args:
        points: the points.
        predict: the kind of prediction.
        data_std: the data's standard deviation d.
        fine: c/d. Only "rectified" uses it.
    """
    s = points.ratio
    if predict == "denoised":
        one = torch.ones_like(s)
        return Coordinates(points.sigma, 1 / s, 0 * s, one, 1 / s)
    if predict == "noise":
        return Coordinates(points.alpha, s, -1 / points.alpha, -1 / s, -s)
    if predict == "rectified":
        c = fine * data_std
        total = s + c
        factor = -total / (s * c)  # eps - D/c = -(s + c)/(s c) [D - c/(s + c) x/alpha]
        return Coordinates(
            points.alpha * total, s / total, -c / (total * points.alpha), factor, -s * c / total.square()
        )
    total = s.square() + data_std**2
    root = total.sqrt()
    # F = (D - d^2/R^2 x/alpha) R/(s d), and d zeta/d lambda = -s d/R^2
    return Coordinates(
        points.alpha * root,
        torch.atan2(s, torch.full_like(s, data_std)),
        -(data_std**2) / (total * points.alpha),
        -root / (s * data_std),
        -s * data_std / total,
    )


def lambda_at(zeta: Tensor, predict: Predict, data_std: float = 1.0, fine: float = FINE) -> Tensor:
    """lambda as a function of zeta, the inverse of `Coordinates.zeta`. The arguments are those of `coordinates`."""
    if predict == "denoised":
        return zeta.log()
    if predict == "noise":
        return -zeta.log()
    if predict == "rectified":
        return -(fine * data_std * zeta / (1 - zeta)).log()
    return -(data_std * torch.tan(zeta)).log()
