"""Butcher's tableaus of explicit Runge-Kutta methods."""

from __future__ import annotations

from typing import NamedTuple


class Tableau(NamedTuple):
    """The coefficients of an explicit Runge-Kutta method for dz/du = v(z, u) (Butcher 1964):

        v_i = v(z + h sum_j a_ij v_j, u + c_i h),    z <- z + h sum_i b_i v_i.

    Attributes:
        c: the nodes.
        a: the weights of the earlier slopes in each stage.
        b: the weights of the slopes in the step.
        order: the order of the method.
        e: b minus the weights of the embedded method. h sum_i e_i v_i estimates the error of the step.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int
    e: tuple[float, ...] = ()


MIDPOINT = Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1), 2)
HEUN = Tableau((0, 1), ((), (1,)), (1 / 2, 1 / 2), 2)
RALSTON = Tableau((0, 1 / 2, 3 / 4), ((), (1 / 2,), (0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9), 3)  # Ralston (1962)
KUTTA = Tableau(  # Kutta (1901)
    (0, 1 / 2, 1 / 2, 1), ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4
)
DORMAND_PRINCE = Tableau(  # RK5(4)7M, Dormand & Prince (1980): the last stage is the first of the next step
    (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
    5,
    (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
