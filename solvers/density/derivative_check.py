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

STEP = {
    dtype: torch.finfo(dtype).eps ** (1 / 3) for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}
"""Steps of a central difference, in units of the states' size, whose errors by rounding and by curvature are alike."""

UNRESOLVED = 1e-10
"""A step that float64 resolves, and float32 does not."""


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
    """The finite difference for each state, `[n]`, and how far rounding may put it off.

    A network in float32 may take states in float64 and return float64. Its values are rounded in float32 all the same,
    and the step has to be as long as for float32. It is found out by a step that float32 does not resolve.
    """
    for dtype in (torch.float64, y.dtype):
        if dtype == torch.float64 and y.device.type == "mps":
            continue
        try:
            slope = _difference(field, y.to(dtype), probe.to(dtype), STEP[dtype])
        except (RuntimeError, TypeError, ValueError):  # a network in float32 takes no float64
            if dtype == y.dtype:
                raise
            continue
        # The velocity is a difference of terms as large as the state: where it vanishes, their rounding is left.
        size = max(float(value.norm()), float(y.norm())) * float(probe.norm()) / len(y) ** 0.5
        rounded = dtype
        if dtype == torch.float64:
            unresolved = _difference(field, y.to(dtype), probe.to(dtype), UNRESOLVED)
            if float((unresolved - slope).norm()) > _rounding(dtype, UNRESOLVED, y) * size:
                rounded = torch.float32
                slope = _difference(field, y.to(dtype), probe.to(dtype), STEP[rounded])
        # A derivative is rounded in the dtype of the solve, in as many terms as there are components.
        least = max(torch.finfo(rounded).eps, torch.finfo(y.dtype).eps)
        in_derivative = 10 * least * y[0].numel() * len(y) ** 0.5
        return slope, _rounding(rounded, STEP[rounded], y) * size + in_derivative
    raise ValueError(f"model: expected a value of {y.dtype} for a state of {y.dtype}")


def _difference(field: VectorField, y: Tensor, probe: Tensor, step: float) -> Tensor:
    """The central difference of e . v along e, `[n]`, with a step in units of the states' size."""
    h = step * _size(y)
    up, down = (field(y + side * h * probe) for side in (1, -1))
    if up.dtype != y.dtype:
        raise TypeError(f"model: expected a value of {y.dtype} for a state of {y.dtype}, got {up.dtype}")
    return ((up - down) * probe).flatten(1).sum(1) / (2 * h)


def _rounding(dtype: torch.dtype, step: float, y: Tensor) -> float:
    """How far values that are rounded in a dtype put a difference off, for values of size 1."""
    return 10 * torch.finfo(dtype).eps / (step * _size(y))


def _size(y: Tensor) -> float:
    return max(float(y.abs().mean()), 1e-3)
