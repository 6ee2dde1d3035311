"""The end of a path of the probability flow, with the integral of the divergence along it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backdrift.solvers.density.divergence import Mode, VectorField, divergence
from backdrift.solvers.flows.flow import Flow

FINER = 2.0
"""The error of a solve is at most this many times its difference from a finer one, if the finer error is at most half.

With e and e' the two errors and |e'| <= |e|/2, |e| <= 2 |e - e'|. Steps of half the length do so for any method that
converges at first order or faster. The finer solve of a method of order 4 has a sixteenth of the error, and the bound
is then 1.9 times the error itself.
"""

FINER_CORRECTED = 3.0
"""The same for "score_corrected", if the finer error is at most two thirds.

Its log-density has errors of two kinds, of the path's correction and of the divergence's quadrature. They have
different orders, and where they happen to cancel in the first solve the finer one is not much better. With 2 in place
of 3 the interval of a 16-D mixture held 90% in the cells of `benchmarks/coverage.py` where 95% was promised.
"""

ROUGH = 2.0
"""How many standard deviations of the noise in the finer quadrature are added in squares: about 95% of it.

The difference from a finer solve says nothing about a divergence that is rough in time, since the rule of both solves
meets it at random: they may agree by accident. See `solvers.quadrature.quadrature_noise`, and where the divergence is
taken at the evaluations of the path itself, `solvers.density.step_sums.rough_deviation`.
"""


@dataclass(frozen=True)
class PathIntegral:
    """What a solve of the probability flow from the data to the noise gives, and how far it can be trusted.

    Attributes:
        z: the state at the end of the noise, `[batch, ...]`.
        integral: of the divergence along the path, in nats, `[batch]`. It is what log p at the start exceeds log p at
            the end by.
        variance: of `integral` over its random probes, `[batch]`; 0 for an exact divergence.
        degrees: degrees of freedom behind `variance`, `[batch]`; infinite for an exact divergence.
        check_z: the end by a second solve, like `z`. It shows the solver's error.
        check_gain: how much more the integral of the second solve is, `[batch]`; nan without such a solve.
        factor: what the difference from the second solve is multiplied by to bound the solver's error: `FINER` or
            `FINER_CORRECTED` if that solve is finer, 1 if it is coarser.
        margin: what else to add to this bound, `[batch]`.
        noise: what to add to it in squares, `[batch]`: `ROUGH` standard deviations of the quadrature's noise.
        nfe: evaluations of the model for a sample, `[batch]`.
    """

    z: Tensor
    integral: Tensor
    variance: Tensor
    degrees: Tensor
    check_z: Tensor
    check_gain: Tensor
    factor: float
    margin: Tensor
    noise: Tensor
    nfe: Tensor


def velocity_at(path: Flow, u: Any) -> VectorField:
    """The flow's velocity at the time u, a function of z alone."""
    return lambda z: path.velocity(z, u)


def exact_divergence(path: Flow, z: Tensor, u: Any, chunk: int | None, mode: Mode = "reverse") -> tuple[Tensor, Tensor]:
    """The velocity `[batch, ...]` and its divergence `[batch]`: in closed form if the flow has one, else exactly."""
    known = path.divergence(z, u)
    return divergence(velocity_at(path, u), z, chunk, mode) if known is None else (path.velocity(z, u), known)


def infinite_like(x: Tensor) -> Tensor:
    """Infinity in the shape of x, for the degrees of freedom of an exact number."""
    return torch.full_like(x, math.inf)


def unknown_like(x: Tensor) -> Tensor:
    """nan in the shape of x, for what was not asked for."""
    return torch.full_like(x, math.nan)
