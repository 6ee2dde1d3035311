"""Does a process of any kind keep to the contract of `SDE`? Its methods are compared with one another at states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backdrift.sde.check_report import CheckReport, Comparisons
from backdrift.sde.process import SDE, NoiseType

STEP = 1e-5
"""Of the central differences that the derivative of g g^T is compared with, relative to the size of the state."""


def check_process(sde: SDE, x: Tensor, tolerance: float) -> CheckReport:
    """Compare what a process of any kind declares with what its drift and diffusion do, in float64:

    - f and g have the shapes that `SDE` asks for, with finite values;
    - a sample's f and g do not depend on the other samples, and one time for each sample gives what it gives alone;
    - g does not depend on x where `state_dependent` is False;
    - `noise_divergence` is div(g g^T), by central differences;
    - `apply_noise` is g z, and `apply_diffusion` is g g^T v.

    Args:
        sde: the process.
        x: states to ask about, `[batch, ...]`.
        tolerance: relative error above which a comparison is a fault.

    Returns:
        A report whose faults name the method.
    """
    x = x.double()
    batch = len(x)
    # One time for each sample, none at the ends, where a process may be singular.
    t = sde.T * torch.linspace(0.05, 0.95, batch, dtype=torch.float64, device="cpu")
    made = Comparisons(t)
    with torch.no_grad():
        f, g = sde.drift(x, t), sde.diffusion(x, t)
        fault = _shape_fault(sde.noise_type, x, f, g)
        if fault is not None:
            return CheckReport(repr(sde), [], [fault])
        alone = [slice(i, i + 1) for i in range(batch)]
        f_alone = torch.cat([sde.drift(x[i], t[i][0]) for i in alone])
        g_alone = torch.cat([_wide(sde, x[i], sde.diffusion(x[i], t[i][0])) for i in alone])
        _each(made, "drift", f, f_alone, "the sample alone, at its own time,", tolerance)
        _each(made, "diffusion", _wide(sde, x, g), g_alone, "the sample alone, at its own time,", tolerance)
        if not sde.state_dependent:
            moved = _wide(sde, x, sde.diffusion(x + 1, t))
            _each(
                made, "state_dependent = False, but the diffusion", moved, _wide(sde, x, g), "another state", tolerance
            )
        z = _draws(sde.noise_shape(x))
        _each(made, "apply_noise", sde.apply_noise(x, t, z), _product(sde, x, g, z), "g z", tolerance)
        v = _draws(tuple(x.shape))
        covariance = sde.covariance(x, t)
        expected = (covariance @ v.flatten(1).unsqueeze(-1)).reshape(x.shape)
        _each(made, "apply_diffusion", sde.apply_diffusion(x, t, v), expected, "g g^T v", tolerance)
        divergence = _divergence(lambda y: sde.covariance(y, t), x)
        # A difference has half the digits.
        _each(made, "noise_divergence", sde.noise_divergence(x, t), divergence, "div(g g^T)", max(tolerance, 1e-4))
    return made.report(repr(sde))


def _each(made: Comparisons, name: str, declared: Tensor, expected: Tensor, law: str, tolerance: float) -> None:
    """Compare two tensors `[batch, ...]` by the worst component of each sample, and blame `name` for a difference."""
    declared, expected = declared.flatten(1), expected.flatten(1)
    size = expected.abs().amax(1).clamp(min=1e-8)
    worst = (declared - expected).abs().nan_to_num(nan=torch.inf).argmax(1, keepdim=True)
    found = made.compare(name, declared.gather(1, worst)[:, 0], expected.gather(1, worst)[:, 0], size)
    if found.error > tolerance:
        made.blame(name, found, law)


def _shape_fault(noise_type: NoiseType, x: Tensor, f: Tensor, g: Tensor) -> str | None:
    """What is wrong with the shapes or values of drift and diffusion, or None."""
    if f.shape != x.shape:
        return f"drift is at fault: it has the shape {list(f.shape)} where x has {list(x.shape)}."
    if noise_type == "general":
        if g.ndim != 3 or g.shape[:2] != (len(x), x[0].numel()):
            expected = f"[{len(x)}, {x[0].numel()}, m]"
            return f"diffusion is at fault: general noise asks for the shape {expected}, it has {list(g.shape)}."
    else:
        try:
            fits = torch.broadcast_shapes(g.shape, x.shape) == x.shape
        except RuntimeError:
            fits = False
        if not fits:
            return f"diffusion is at fault: its shape {list(g.shape)} does not broadcast against x, {list(x.shape)}."
    for name, value in (("drift", f), ("diffusion", g)):
        if not bool(value.isfinite().all()):
            return f"{name} is at fault: it is not finite at every state between 5% and 95% of T."
    return None


def _wide(sde: SDE, x: Tensor, g: Tensor) -> Tensor:
    """The diffusion with an entry for each component of each sample."""
    return g if sde.noise_type == "general" else g.expand_as(x)


def _product(sde: SDE, x: Tensor, g: Tensor, z: Tensor) -> Tensor:
    """g z."""
    return (g @ z.unsqueeze(-1)).reshape(x.shape) if sde.noise_type == "general" else g * z


def _draws(shape: tuple[int, ...]) -> Tensor:
    """Fixed numbers of either sign."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64, device="cpu")


def _divergence(covariance: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """sum_j d(g g^T)_ij/dx_j by central differences, shaped like x."""
    flat = x.flatten(1)
    total = torch.zeros_like(flat)
    for j in range(flat.shape[1]):
        step = torch.zeros_like(flat)
        step[:, j] = STEP * flat.abs().amax().clamp(min=1.0)
        up, down = (covariance((flat + side * step).reshape(x.shape))[:, :, j] for side in (1, -1))
        total += (up - down) / (2 * step[:, j : j + 1])
    return total.reshape(x.shape)
