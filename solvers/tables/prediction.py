"""The coordinates in which the probability flow has no linear part, one for each kind of prediction.

Dividing the state by a scale N(t) leaves dy/dzeta = value, y = x/N, with a value that is affine in x
and the denoiser, and a time zeta of its own:

    predict       y                   zeta                    value
    denoised      x/sigma             exp(lambda)             D
    noise         x/alpha             s = sigma/alpha         (x - alpha D)/sigma
    velocity      x/(alpha R)         phi = atan(s/d)         -F, the preconditioned network's output
    rectified     x/(alpha (s + c))   s/(s + c)               (x - alpha D)/sigma - D/c

with R^2 = s^2 + d^2, d the data's standard deviation and c that of its finer structure. The first two are
Lu et al. (2022b; 2022a, prop. 3.1). In the third, y at phi is a rotation of data and noise, and for normal data of
standard deviation d the value is 0: the flow is solved exactly by any method. In the fourth, y goes along the straight
line from data in units of c to noise, with rectified flow's velocity (Liu, Gong & Liu 2022); it lies between the first
two, which are its limits for c towards 0 and infinity. Any method is exact where the value is constant: all but
velocity for data at a point, rectified also in directions much wider than c.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice
from backdrift.solvers.tables.grid import Points

Predict = Literal["denoised", "noise", "velocity", "rectified"]

FINE = 0.3
"""c/d where nothing is said."""


class Coordinates(NamedTuple):
    """A kind of prediction at points of a grid.

    Attributes:
        scale: N, with y = x/N.
        zeta: the time of y.
        slope: P = D + slope x is the value up to a factor, as tables take it.
        factor: dy/dzeta = factor P.
        density: d zeta/d lambda.
    """

    scale: Tensor
    zeta: Tensor
    slope: Tensor
    factor: Tensor
    density: Tensor


def require_predict(predict: str) -> None:
    """Raise `ValueError` unless `predict` names a kind of prediction."""
    require_choice("predict", predict, get_args(Predict))


def coordinates(points: Points, predict: Predict, data_std: float = 1.0, fine: float = FINE) -> Coordinates:
    """Scale, time, value and density of a kind of prediction at given points.

    Args:
        points: where.
        predict: the kind.
        data_std: d.
        fine: c/d of the kind "rectified".
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
    """lambda as a function of zeta: the inverse of `Coordinates.zeta`."""
    if predict == "denoised":
        return zeta.log()
    if predict == "noise":
        return -zeta.log()
    if predict == "rectified":
        return -(fine * data_std * zeta / (1 - zeta)).log()
    return -(data_std * torch.tan(zeta)).log()
