"""Does a process do what it declares? The moment equations, integrated and compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backdrift.sde.gaussian import GaussianSDE


@dataclass(frozen=True)
class Finding:
    """One comparison: the worst relative error of a declared quantity, and where it is.

    Attributes:
        method: what is compared.
        t: the time of the worst error.
        declared: what the class says there.
        expected: what the moment equations say there.
        error: |declared - expected| / |expected|.
    """

    method: str
    t: float
    declared: float
    expected: float
    error: float


@dataclass(frozen=True)
class CheckReport:
    """What `check` found. True when everything agrees; prints as a table.

    Attributes:
        process: the process's own description.
        findings: one row a comparison.
        faults: sentences that name the method at fault, empty when all is well.
    """

    process: str
    findings: list[Finding]
    faults: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        rows = [f"{self.process}", f"{'method':<28}{'t':>12}{'declared':>16}{'expected':>16}{'error':>11}"]
        rows += [
            f"{f.method:<28}{f.t:>12.5g}{f.declared:>16.8g}{f.expected:>16.8g}{f.error:>11.1e}" for f in self.findings
        ]
        return "\n".join(rows + (self.faults or ["all agree"]))

    def raise_for_faults(self) -> None:
        """Raise `ValueError` with the faults, if there are any."""
        if self.faults:
            raise ValueError(f"{self.process}: " + " ".join(self.faults))


def check(sde: GaussianSDE | Any, points: int = 65, tolerance: float = 1e-5) -> CheckReport:
    """Compare what a Gaussian process declares with its own moment equations, in float64:

        d mean/dt = f mean,    d var/dt = 2 f var + g^2

    (Särkkä & Solin 2019, eq. 5.50 and 5.51), started from the declared moments at an early time and
    integrated to T; and f, g read off `drift` and `diffusion` with the derivatives of alpha and sigma.
    The two equations name the culprit: a wrong drift breaks the first alone once f is replaced
    by d log(alpha)/dt; a wrong alpha breaks it too, but then the second holds with the declared
    drift; a wrong diffusion or sigma breaks the second alone.

    Args:
        sde: the process, of the package or the user's own; a `LinearSDE` answers by its own `check`.
        points: how many times are compared, evenly in log-SNR.
        tolerance: relative error above which a comparison is a fault.

    Returns:
        A `CheckReport`, true when all agree; `print` it, or `raise_for_faults()`.
    """
    from scipy.integrate import solve_ivp  # slow to import, and only here

    if not isinstance(sde, GaussianSDE):  # a LinearSDE compares its matrices with the same equations
        return sde.check(tolerance=tolerance)
    end = float(sde.T)
    start = max(float(sde.eps), 1e-6 * end)
    t = torch.from_numpy(np.unique(np.concatenate([np.geomspace(start, end, points), np.linspace(start, end, points)])))
    with torch.no_grad():
        one = torch.ones(len(t), 1, dtype=torch.float64)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        f = (sde.drift(2 * one, t) - sde.drift(one, t)).flatten()
        g2 = sde.diffusion(one, t).expand_as(one).flatten().square()
        d_alpha = GaussianSDE.f.__wrapped__(sde, t)  # type: ignore[attr-defined]
        d_variance = torch.func.jvp(lambda u: sde.sigma(u).square(), (t,), (torch.ones_like(t),))[1]

    findings: list[Finding] = []

    def compare(method: str, declared: Tensor, expected: Tensor, scale: Tensor | None = None) -> float:
        error = (declared - expected).abs() / (expected.abs() if scale is None else scale).clamp(min=1e-300)
        error = torch.where(declared.isfinite() & expected.isfinite(), error, math.inf)
        error = torch.where(declared == expected, 0.0, error)
        at = int(error.argmax())
        findings.append(Finding(method, float(t[at]), float(declared[at]), float(expected[at]), float(error[at])))
        return float(error[at])

    def moments(time: float, y: np.ndarray) -> np.ndarray:
        s = torch.tensor(time, dtype=torch.float64)
        x = torch.ones(1, 1, dtype=torch.float64)
        rate = float(sde.drift(2 * x, s) - sde.drift(x, s))
        return np.array([rate, 2 * rate * y[1] + float(sde.diffusion(x, s)) ** 2])

    initial = [float(alpha[0].log()), float(sigma[0].square())]
    path = solve_ivp(moments, (float(t[0]), end), initial, "LSODA", t.numpy(), rtol=1e-9, atol=1e-13)
    if not path.success or path.y.shape[1] != len(t):
        return CheckReport(
            repr(sde), [], [f"drift, diffusion: the moment equations cannot be integrated: {path.message}"]
        )
    log_alpha, variance = torch.from_numpy(path.y)

    # The size against which a derivative's error counts: rates that vanish must vanish on this scale.
    d_snr = (2 * d_alpha - d_variance / sigma.square()).abs()
    mean_off = max(
        compare("alpha (mean equation)", alpha, log_alpha.exp()),
        compare("drift = d log(alpha)/dt", f, d_alpha, d_snr + d_alpha.abs()),
    )
    var_off = max(
        compare("sigma^2 (variance equation)", sigma.square(), variance),
        compare("diffusion^2", g2, d_variance - 2 * f * sigma.square(), d_variance.abs() + g2),
    )
    var_off_by_alpha = compare(
        "diffusion^2 by alpha, sigma", g2, d_variance - 2 * d_alpha * sigma.square(), d_variance.abs() + g2
    )

    # A third witness to sigma: a log_snr in closed form.
    log_snr, declared_snr = 2 * (alpha.log() - sigma.log()), sde.log_snr(t)
    log_snr_off = compare("log_snr", declared_snr, log_snr, log_snr.abs().clamp(min=1))
    d_log_snr = torch.func.jvp(sde.log_snr, (t,), (torch.ones_like(t),))[1]
    var_off_by_snr = compare(
        "diffusion^2 by alpha, log_snr", g2, -alpha.square() * torch.exp(-declared_snr) * d_log_snr
    )

    def worst(*methods: str) -> Finding:
        return max((found for found in findings if found.method in methods), key=lambda found: found.error)

    faults: list[str] = []

    def fault(name: str, found: Finding, law: str) -> None:
        faults.append(
            f"{name} is at fault: at t = {found.t:.4g} it gives {found.declared:.6g} where {law} asks for "
            f"{found.expected:.6g} (ratio {found.declared / found.expected if found.expected else math.inf:.4g})."
        )

    if mean_off > tolerance and var_off_by_alpha <= tolerance:
        fault("drift", worst("drift = d log(alpha)/dt"), "d log(alpha)/dt")
    elif mean_off > tolerance and var_off <= tolerance:
        fault("alpha", worst("alpha (mean equation)"), "the mean equation with the declared drift")
    elif mean_off > tolerance:
        fault("drift or alpha", worst("drift = d log(alpha)/dt"), "d log(alpha)/dt")
        fault("diffusion or sigma", worst("diffusion^2"), "d(sigma^2)/dt - 2 f sigma^2")
    elif var_off > tolerance and log_snr_off > tolerance and var_off_by_snr <= tolerance:
        fault("sigma", worst("sigma^2 (variance equation)"), "(for sigma^2) the variance equation")
    elif var_off > tolerance:
        fault("diffusion (or sigma)", worst("diffusion^2"), "d(sigma^2)/dt - 2 f sigma^2")

    offset = sde.drift(0 * one, t).flatten()
    if compare("drift at x = 0", offset, torch.zeros_like(offset), f.abs().clamp(min=1)) > tolerance:
        fault("drift", findings[-1], "a drift linear in x (use SDE for any other)")
    if any(name in fault.split(" at fault")[0] for fault in faults for name in ("alpha", "sigma")):
        return CheckReport(repr(sde), findings, faults)  # log_snr cannot be held against a wrong alpha or sigma
    if log_snr_off > tolerance:
        fault("log_snr", worst("log_snr"), "log(alpha^2/sigma^2)")
    elif bool((log_snr.diff() >= 0).any()):
        faults.append("alpha or sigma is at fault: log(alpha^2/sigma^2) does not fall with t everywhere.")
    elif compare("t_from_log_snr", sde.t_from_log_snr(log_snr), t) > tolerance:
        fault("t_from_log_snr", findings[-1], "the inverse of log_snr")
    return CheckReport(repr(sde), findings, faults)
