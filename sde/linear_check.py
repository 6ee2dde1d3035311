"""Does a linear process with matrices do what it declares? The check of `LinearSDE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from backdrift.sde.check_report import CheckReport, Finding

if TYPE_CHECKING:
    from backdrift.sde.linear import LinearSDE


def check_linear(sde: LinearSDE, points: int = 17, tolerance: float = 1e-5) -> CheckReport:
    """Compare the moments of a linear process with those that `drift` and `diffusion` ask for, in float64:

        dPhi/dt = F(t) Phi,    dP/dt = F P + P F^T + G G^T

    (Särkkä & Solin 2019, section 6.1). The comparison finds a schedule whose two functions disagree, and a subclass
    whose drift is not the one that its moments belong to. The report is that of `sde.check`.

    Args:
        sde: the process.
        points: how many times are compared, evenly from 0 to T.
        tolerance: relative error above which a comparison is a fault.
    """
    d, times = sde.dim, np.linspace(0, sde.T, points)
    t = torch.from_numpy(times)
    expected = _integrated(sde, times)
    declared = torch.stack([sde.moments(0.0, t)[0], sde.covariance_at(t)], 1)
    findings, faults = [], []
    for k, name in enumerate(("mean (Phi)", "covariance")):
        scale = expected[:, k].abs().amax((-2, -1)).clamp(min=1e-300)
        error = (declared[:, k] - expected[:, k]).abs() / scale[:, None, None]
        at = int(error.argmax())
        values = [float(v[:, k].flatten()[at]) for v in (declared, expected)]
        found = Finding(name, float(times[at // d**2]), values[0], values[1], float(error.max()))
        findings.append(found)
        if not found.error <= tolerance:
            faults.append(
                f"{name} is at fault: at t = {found.t:.4g} it is {found.declared:.6g} where drift and diffusion "
                f"ask for {found.expected:.6g}; is schedule.integrated_beta the integral of schedule.beta?"
            )
    return CheckReport(repr(sde), findings, faults)


def _integrated(sde: LinearSDE, times: np.ndarray) -> Tensor:
    """Phi and P by their differential equations, `[n, 2, d, d]`, at the given times from 0."""
    from scipy.integrate import solve_ivp  # slow to import, and only here

    d = sde.dim
    unit, one = torch.eye(d, dtype=torch.float64, device="cpu"), torch.ones(1, d, dtype=torch.float64, device="cpu")

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        phi, p = torch.from_numpy(y).reshape(2, d, d)
        f, g = sde.drift(unit, t).mT, sde.diffusion(one, t)[0]
        return torch.stack([f @ phi, f @ p + p @ f.mT + g @ g.mT]).flatten().numpy()

    start = torch.stack([unit, sde.initial]).flatten().numpy()
    path = solve_ivp(slope, (0, sde.T), start, "LSODA", times, rtol=1e-9, atol=1e-12)
    return torch.from_numpy(path.y.T.copy()).reshape(-1, 2, d, d)
