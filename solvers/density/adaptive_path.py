"""The path integral of the divergence with steps chosen for each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backdrift.solvers.density.divergence import Mode, products
from backdrift.solvers.density.fixed_path import ErrorEstimate
from backdrift.solvers.density.path_integral import (
    FINER,
    PathIntegral,
    exact_divergence,
    infinite_like,
    unknown_like,
    velocity_at,
)
from backdrift.solvers.density.probes import DivergenceProbes
from backdrift.solvers.flows.dormand_prince import AdaptiveSolution, Control, adaptive
from backdrift.solvers.flows.flow import Flow

ROUNDINGS = 4
"""Tolerances below this many roundings of the dtype cannot be kept."""


def adaptive_path_integral(
    path: Flow,
    z: Tensor,
    probes: DivergenceProbes | None,
    *,
    rtol: float,
    atol: float,
    chunk: int | None,
    estimate_error: ErrorEstimate,
    mode: Mode = "reverse",
) -> PathIntegral:
    """The path integral by Dormand and Prince's method.

    The probes are the same all along the path, so that there is a smooth path to follow.

    Args:
        path: the flow.
        z: the states at the end of the data, `[batch, ...]`.
        probes: of the divergence; an exact divergence by default.
        rtol, atol: tolerances for z, and for the integral in nats per component.
        chunk: how many products with the Jacobian are in memory at once; all by default.
        estimate_error: whether to make a second solve. With exact divergences it has a tenth of the tolerances
            and half the longest step, where the dtype allows it. Otherwise it has ten times the tolerances, which
            costs less, and so it does where "coarser" is asked for.
        mode: how products with the Jacobian are found.
    """
    still = None if probes is None else probes.draw(probes.count)

    def rate(flow: Flow, z: Tensor, u: Any, which: Tensor) -> tuple[Tensor, Tensor]:
        if still is not None:
            return products(velocity_at(flow, u), z, still[:, which], chunk, mode)
        value, along = exact_divergence(flow, z, u, chunk, mode)
        return value, along.unsqueeze(0)

    k = 1 if still is None else len(still)

    def solve(control: Control) -> AdaptiveSolution:
        return adaptive(path, z, control, start=path.first, end=path.last, rate=rate, integrals=k)

    end = solve(Control(rtol, atol))
    integral = end.integral.mean(0)
    variance, degrees = torch.zeros_like(integral), infinite_like(integral)
    if still is not None:
        variance = end.integral.var(0) / k if k > 1 else unknown_like(variance)
        degrees = torch.full_like(degrees, k - 1)
    check_z, gain, margin, nfe = end.z, unknown_like(integral), unknown_like(integral), end.nfe
    resolved = min(rtol, atol) / 10 > ROUNDINGS * torch.finfo(z.dtype).eps
    finer = still is None and estimate_error != "coarser" and resolved
    if estimate_error:
        # The errors of single steps miss what an error in z does later on, which a second solve with other tolerances
        # shows. Its other longest step shows it also where the tolerances are so loose that they limit no step.
        control = Control(rtol / 10, atol / 10, longest=0.05) if finer else Control(10 * rtol, 10 * atol, longest=0.2)
        check = solve(control)
        check_z, gain, nfe = check.z, (check.integral - end.integral).mean(0), nfe + check.nfe
        margin = torch.zeros_like(integral) if finer else end.integral_error.mean(0)
    factor = FINER if finer else 1.0
    return PathIntegral(
        end.z, integral, variance, degrees, check_z, gain, factor, margin, torch.zeros_like(integral), nfe
    )
