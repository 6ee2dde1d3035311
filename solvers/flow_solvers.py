"""Explicit Runge-Kutta methods for a flow: on a fixed grid, and with steps of its own for each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from solvers.tableau import DORMAND_PRINCE, HEUN, KUTTA, MIDPOINT, Tableau

TABLEAUS = {"midpoint": MIDPOINT, "heun": HEUN, "rk4": KUTTA}

Evaluate = Callable[[Tensor, float, float, float], Tensor]
"""(z, u, weight, place) -> the velocity there; it may add to an integral on the way, with that weight."""

Rate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(z, u, which samples) -> the velocity `[n, ...]` and the rates `[k, n]` of k integrals along the path."""


def fixed(z: Tensor, nodes: Sequence[float], tableau: Tableau, evaluate: Evaluate) -> Tensor:
    """z at the last node from z at the first.

    `evaluate` is told each evaluation's weight in the integral over u, and its place: the number of
    steps behind it, a fraction within a step.
    """
    for n, (u, end) in enumerate(pairwise(nodes)):
        h = end - u
        slopes: list[Tensor] = []
        for c, row, b in zip(tableau.c, tableau.a, tableau.b, strict=True):
            stage = _advance(z, h, row, slopes)
            slopes.append(evaluate(stage, u + c * h, h * b, n + c))
        z = _advance(z, h, tableau.b, slopes)
    return z


class Adaptive(NamedTuple):
    """Where an adaptive solve ends.

    Attributes:
        z: the state, `[batch, ...]`.
        integral: of the rates, `[k, batch]`.
        integral_error: the sum of the absolute values of the steps' embedded errors, `[k, batch]`.
        nfe: evaluations of the field, `[batch]`.
    """

    z: Tensor
    integral: Tensor
    integral_error: Tensor
    nfe: Tensor


def adaptive(
    z: Tensor, start: float, end: float, rate: Rate, k: int, rtol: float, atol: float, limit: int = 1000
) -> Adaptive:
    """Dormand & Prince (1980) with a step size for each sample; a sample that has arrived is left alone.

    A step is taken where the root mean square of its error over atol + rtol |z|, and the error of each
    integral over atol for a component of z, are below 1 (Hairer et al. 1993, section II.4).

    Raises:
        RuntimeError: if a sample has not arrived after `limit` steps.
    """
    tableau, span, sign = DORMAND_PRINCE, abs(end - start), 1.0 if end > start else -1.0
    batch, size = len(z), z[0].numel()

    def column(value: Tensor) -> Tensor:
        return value.to(z.dtype).reshape(-1, *(1,) * (z.ndim - 1))

    u = torch.full((batch,), start, dtype=torch.float64, device=z.device)
    h = torch.full_like(u, sign * span / 50)
    z = z.clone()
    integral, integral_error = z.new_zeros(k, batch), z.new_zeros(k, batch)
    active = torch.arange(batch, device=z.device)
    first, first_rate = rate(z, u, active)
    nfe = torch.ones(batch, dtype=torch.long, device=z.device)
    for _ in range(limit):
        if len(active) == 0:
            return Adaptive(z, integral, integral_error, nfe)
        left = end - u[active]
        step = torch.where(h[active].abs() < left.abs(), h[active], left)
        base, wide = z[active], column(step)
        slopes, rates = [first[active]], [first_rate[:, active]]
        for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
            slope, along = rate(_advance(base, wide, row, slopes), u[active] + c * step, active)
            slopes.append(slope)
            rates.append(along)
        nfe[active] += len(tableau.c) - 1
        new = _advance(base, wide, tableau.b, slopes)
        off = _advance(torch.zeros_like(base), wide, tableau.e, slopes)
        gain, gain_off = (
            step.to(z.dtype) * sum(b * r for b, r in zip(weights, rates, strict=True) if b)
            for weights in (tableau.b, tableau.e)
        )
        scale = atol + rtol * torch.maximum(base.abs(), new.abs())
        worst = (off / scale).flatten(1).square().mean(1).sqrt()
        worst = torch.cat([worst.unsqueeze(0), gain_off.abs() / (atol * size)]).amax(0).double()
        # A step that leaves the numbers is a step too long.
        worst = torch.where(worst.isfinite(), worst, torch.inf)
        taken = worst <= 1
        # No longer than a tenth of the way: where the field vanishes, the estimate cannot see what lies ahead.
        h[active] = (step * (0.9 * worst.clamp(min=1e-10).pow(-1 / tableau.order)).clamp(0.2, 2.0)).clamp(
            -span / 10, span / 10
        )
        done = active[taken]
        z[done] = new[taken]
        integral[:, done] += gain[:, taken]
        integral_error[:, done] += gain_off[:, taken].abs()
        first[done], first_rate[:, done] = slopes[-1][taken], rates[-1][:, taken]
        last = step == left
        u[done] = torch.where(last, end, u[active] + step)[taken]
        active = active[~(taken & last)]
    raise RuntimeError(
        f"adaptive: {len(active)} of {batch} samples have not arrived after {limit} steps (sample {int(active[0])} is "
        f"at u = {float(u[active[0]]):.4g}, step {float(h[active[0]]):.2g}); loosen rtol and atol, or look for nan"
    )


def _advance(z: Tensor, h: float | Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """z + h sum_j w_j v_j."""
    for w, slope in zip(weights, slopes, strict=False):
        if w:
            z = z + h * w * slope
    return z
