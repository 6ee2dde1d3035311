"""Is a model's derivative by autograd the slope of its values? Where it is not, a likelihood is wrong silently."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from backdrift.solvers.density.divergence import Mode, VectorField, products
from backdrift.solvers.density.path_integral import velocity_at
from backdrift.solvers.flows.flow import Flow

SAMPLES = 8
"""States that a check takes at most."""

DISAGREEMENT = 0.1
"""Relative difference between derivative and finite difference above which the derivative is not believed."""


def derivative_mode(path: Flow, z: Tensor, preferred: Mode) -> Mode:
    """The mode in which the derivative of the flow's velocity agrees with a finite difference.

    One probe e is taken for each of a few states in the middle of the path, and e^T J e is compared with

        e . (v(z + h e) - v(z - h e)) / (2 h),

    in float64 where the model allows it. A model that detaches its input has a wrong derivative in both modes, and one
    that runs under `torch.no_grad` has one in reverse mode.

    Args:
        path: the flow.
        z: states at the end of the data, `[batch, ...]`.
        preferred: the mode to try first.

    Raises:
        ValueError: if the derivative agrees in neither mode.
    """
    few = torch.arange(min(SAMPLES, len(z)), device=z.device)
    here = path.select(few) if len(few) < len(z) else path
    u, y = path.middle(z[few])
    field = velocity_at(here, u)
    generator = torch.Generator().manual_seed(0)
    probe = torch.where(torch.rand(y.shape, generator=generator, device="cpu") < 0.5, -1.0, 1.0).to(y)
    value = field(y)  # in the dtype that it will be asked in, before any other
    slope, noise = _slope(field, y, probe, value)
    problems = []
    for mode in (preferred, *(other for other in get_args(Mode) if other != preferred)):
        try:
            found = products(field, y, probe.unsqueeze(0), mode=mode)[1][0].to(slope)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            problems.append(f"{mode} mode fails ({str(error).splitlines()[0][:120]})")
            continue
        size = max(float(slope.norm()), float(found.norm()))
        off = float((found - slope).norm())
        if off <= DISAGREEMENT * size + noise:
            return mode
        problems.append(f"{mode} mode is off by {off / size:.0%}")
    raise ValueError(
        f"model: its derivative by autograd is not the slope of its values: {', '.join(problems)}; does it detach its "
        "input, run without gradients inside, or draw random numbers (dropout in training mode)?"
    )


def _slope(field: VectorField, y: Tensor, probe: Tensor, value: Tensor) -> tuple[Tensor, float]:
    """The finite difference for each state, `[n]`, and how far rounding may put it off."""
    for dtype in (torch.float64, y.dtype):
        if dtype == torch.float64 and y.device.type == "mps":
            continue
        eps = torch.finfo(dtype).eps
        h = eps ** (1 / 3) * max(float(y.abs().mean()), 1e-3)
        point, e = y.to(dtype), probe.to(dtype)
        try:
            up, down = (field(point + side * h * e) for side in (1, -1))
        except (RuntimeError, TypeError, ValueError):  # a network in float32 takes no float64
            if dtype == y.dtype:
                raise
            continue
        if up.dtype == dtype:
            # A derivative is rounded in the dtype of the solve, in as many terms as there are components.
            in_derivative = 10 * torch.finfo(y.dtype).eps * y[0].numel() * len(y) ** 0.5
            # The velocity is a difference of terms as large as the state: where it vanishes, their rounding is left.
            size = max(float(value.norm()), float(y.norm()))
            rounding = 10 * eps / h * size * float(e.norm()) / len(y) ** 0.5
            return ((up - down) * e).flatten(1).sum(1) / (2 * h), rounding + in_derivative
    raise ValueError(f"model: expected a value of {y.dtype} for a state of {y.dtype}")
