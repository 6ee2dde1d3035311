"""Does a process do what it declares? Its moment equations are integrated and compared with its marginals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from backdrift.sde.check_report import CheckReport, Comparisons, Finding
from backdrift.sde.checks import require_integer, require_positive
from backdrift.sde.gaussian import GaussianSDE, value_and_derivative
from backdrift.sde.process import SDE
from backdrift.sde.process_check import check_process

MOST_CALLS = 50_000
"""Evaluations of drift and diffusion after which the moment equations are given up: some seconds."""


@runtime_checkable
class ChecksItself(Protocol):
    """A process with a `check` of its own, such as `LinearSDE`."""

    def check(self, *, tolerance: float) -> CheckReport: ...


def check(
    sde: SDE | ChecksItself, points: int | None = None, tolerance: float = 1e-5, x: Tensor | None = None
) -> CheckReport:
    """Compare what a process declares with what it does. For a Gaussian process these are its moment equations:

        d mean/dt = f mean,    d var/dt = 2 f var + g^2

    (Särkkä & Solin 2019, eq. 5.50 and 5.51). They start from the declared moments at an early time and are integrated
    to T in float64, or to the time where alpha falls below 1e-6 if it vanishes at T. f and g are read off `drift` and
    `diffusion`, and are also compared with the derivatives of alpha and sigma. A process of any other kind has its
    methods compared with one another, see `process_check.check_process`.

    Together the comparisons tell which method is wrong. A wrong drift breaks the mean equation, but the variance
    equation holds once f is replaced by d log(alpha)/dt. A wrong alpha breaks the mean equation too, but the variance
    equation then holds with the declared drift. A wrong diffusion or sigma breaks the variance equation alone.

    Args:
        sde: the process, of this package or the user's own. A `LinearSDE` answers by its own `check`.
        points: how many times are compared. By default a Gaussian process has 65, even in the logarithm of t, and
            as many even in t; a `LinearSDE` has 17. A process of another kind is asked at the times of `x`.
        tolerance: relative error above which a comparison is a fault.
        x: states `[batch, ...]` to ask a process about that is neither Gaussian nor linear. By default these are 16
            draws of exp(z), z ~ N(0, 1), with two components.

    Returns:
        A `CheckReport`, which is true when all agree. Print it, or call its `raise_for_faults()`.

    Raises:
        ValueError: if `sde` is no process, or another argument is out of range.
    """
    require_positive(tolerance=tolerance)
    if points is not None:
        require_integer("points", points, 2)
    if isinstance(sde, ChecksItself):
        return sde.check(tolerance=tolerance, **({} if points is None else {"points": points}))
    if not isinstance(sde, SDE):
        raise ValueError(f"sde: expected a process, a subclass of SDE, got {type(sde).__name__}")
    if not isinstance(sde, GaussianSDE):
        return check_process(sde, _positive_states() if x is None else x, tolerance)
    declared = _declared(sde, 65 if points is None else points)
    try:
        log_alpha, variance = _integrated(sde, declared)
    except ArithmeticError as error:
        return CheckReport(repr(sde), [], [f"drift, diffusion: the moment equations cannot be integrated: {error}"])
    made = Comparisons(declared.t)
    signal_ratio = _compare_moments(sde, declared, log_alpha.exp(), variance, made, tolerance)
    _compare_offset(sde, declared, made, tolerance)
    if not any(name in fault.split(" at fault")[0] for fault in made.faults for name in ("alpha", "sigma")):
        # log_snr can be compared with alpha and sigma only where these two are right.
        _compare_log_snr(sde, declared, signal_ratio, made, tolerance)
    return made.report(repr(sde))


@dataclass(frozen=True)
class _Declared:
    """What a process declares at the compared times, `[n]` each, in float64.

    Attributes:
        t: the times.
        alpha, sigma, log_snr: as declared.
        f, g2: the rate of the drift and the square of the diffusion.
        d_alpha: d log(alpha)/dt.
        d_variance: d sigma^2/dt.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor
    f: Tensor
    g2: Tensor
    d_alpha: Tensor
    d_variance: Tensor


def _declared(sde: GaussianSDE, points: int) -> _Declared:
    """What the process declares from an early time to T."""
    end = _last_signal(sde)
    start = max(float(sde.eps), 1e-6 * end)
    t = torch.from_numpy(np.unique(np.concatenate([np.geomspace(start, end, points), np.linspace(start, end, points)])))
    with torch.no_grad():
        one = torch.ones(len(t), 1, dtype=torch.float64, device="cpu")
        return _Declared(
            t=t,
            alpha=sde.alpha(t),
            sigma=sde.sigma(t),
            log_snr=sde.log_snr(t),
            f=(sde.drift(2 * one, t) - sde.drift(one, t)).flatten(),
            g2=sde.diffusion(one, t).expand_as(one).flatten().square(),
            d_alpha=sde.log_alpha_derivative(t),
            d_variance=value_and_derivative(lambda u: sde.sigma(u).square(), t)[1],
        )


def _positive_states() -> Tensor:
    """States for processes of any kind, those on the positive numbers among them, `[16, 2]`."""
    return torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu").exp()


def _last_signal(sde: GaussianSDE) -> float:
    """T; or, where alpha vanishes there and log(alpha) with it, the last time at which alpha is above 1e-6."""
    low, high = 0.0, float(sde.T)
    if float(sde.alpha(high)) > 0:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(sde.alpha(middle)) > 1e-6 else (low, middle)
    return low


def _integrated(sde: GaussianSDE, declared: _Declared) -> Tensor:
    """log(alpha) and sigma^2 by the moment equations, `[2, n]`, from those declared at the first time.

    Raises:
        ArithmeticError: if the equations cannot be integrated.
    """
    from scipy.integrate import solve_ivp  # slow to import, and only here

    calls = 0

    def moments(time: float, y: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > MOST_CALLS:
            raise ArithmeticError(f"more than {MOST_CALLS} evaluations, now at t = {time:.6g}")
        s = torch.tensor(time, dtype=torch.float64, device="cpu")
        x = torch.ones(1, 1, dtype=torch.float64, device="cpu")
        rate = float(sde.drift(2 * x, s) - sde.drift(x, s))
        return np.array([rate, 2 * rate * y[1] + float(sde.diffusion(x, s)) ** 2])

    t = declared.t
    initial = [float(declared.alpha[0].log()), float(declared.sigma[0].square())]
    path = solve_ivp(moments, (float(t[0]), float(t[-1])), initial, "LSODA", t.numpy(), rtol=1e-9, atol=1e-13)
    if not path.success or path.y.shape[1] != len(t):
        raise ArithmeticError(path.message)
    return torch.from_numpy(path.y)


def _compare_moments(
    sde: GaussianSDE, declared: _Declared, alpha: Tensor, variance: Tensor, made: Comparisons, tolerance: float
) -> Finding:
    """Compare drift, diffusion, alpha and sigma, and blame the one at fault. Returns the comparison of log_snr."""
    t, f, g2, d_alpha, d_variance = declared.t, declared.f, declared.g2, declared.d_alpha, declared.d_variance
    # The size against which a derivative's error counts: rates that should vanish must vanish on this scale.
    d_snr = (2 * d_alpha - d_variance / declared.sigma.square()).abs()
    mean = made.compare("alpha (mean equation)", declared.alpha, alpha)
    drift = made.compare("drift = d log(alpha)/dt", f, d_alpha, d_snr + d_alpha.abs())
    spread = made.compare("sigma^2 (variance equation)", declared.sigma.square(), variance)
    noise = made.compare("diffusion^2", g2, d_variance - 2 * f * declared.sigma.square(), d_variance.abs() + g2)
    noise_by_alpha = made.compare(
        "diffusion^2 by alpha, sigma", g2, d_variance - 2 * d_alpha * declared.sigma.square(), d_variance.abs() + g2
    )
    # A third witness to sigma is log_snr, where that is given in closed form.
    log_snr = 2 * (declared.alpha.log() - declared.sigma.log())
    ratio = made.compare("log_snr", declared.log_snr, log_snr, log_snr.abs().clamp(min=1))
    d_log_snr = value_and_derivative(sde.log_snr, t)[1]
    noise_by_snr = made.compare(
        "diffusion^2 by alpha, log_snr", g2, -declared.alpha.square() * torch.exp(-declared.log_snr) * d_log_snr
    )
    mean_off, var_off = max(mean.error, drift.error), max(spread.error, noise.error)
    if mean_off > tolerance and noise_by_alpha.error <= tolerance:
        made.blame("drift", drift, "d log(alpha)/dt")
    elif mean_off > tolerance and var_off <= tolerance:
        made.blame("alpha", mean, "the mean equation with the declared drift")
    elif mean_off > tolerance:
        made.blame("drift or alpha", drift, "d log(alpha)/dt")
        made.blame("diffusion or sigma", noise, "d(sigma^2)/dt - 2 f sigma^2")
    elif var_off > tolerance and ratio.error > tolerance and noise_by_snr.error <= tolerance:
        made.blame("sigma", spread, "(for sigma^2) the variance equation")
    elif var_off > tolerance:
        made.blame("diffusion (or sigma)", noise, "d(sigma^2)/dt - 2 f sigma^2")
    return ratio


def _compare_offset(sde: GaussianSDE, declared: _Declared, made: Comparisons, tolerance: float) -> None:
    """Blame a drift that does not vanish at x = 0."""
    zero = torch.zeros(len(declared.t), 1, dtype=torch.float64, device="cpu")
    offset = sde.drift(zero, declared.t).flatten()
    found = made.compare("drift at x = 0", offset, torch.zeros_like(offset), declared.f.abs().clamp(min=1))
    if found.error > tolerance:
        made.blame("drift", found, "a drift linear in x (use SDE for any other)")


def _compare_log_snr(
    sde: GaussianSDE, declared: _Declared, ratio: Finding, made: Comparisons, tolerance: float
) -> None:
    """Blame a log_snr or an inverse of it that does not belong to alpha and sigma, or a log_snr that rises."""
    log_snr = 2 * (declared.alpha.log() - declared.sigma.log())
    if ratio.error > tolerance:
        made.blame("log_snr", ratio, "log(alpha^2/sigma^2)")
    elif bool((log_snr.diff() >= 0).any()):
        made.faults.append("alpha or sigma is at fault: log(alpha^2/sigma^2) does not fall with t everywhere.")
    else:
        inverse = made.compare("t_from_log_snr", sde.t_from_log_snr(log_snr), declared.t)
        if inverse.error > tolerance:
            made.blame("t_from_log_snr", inverse, "the inverse of log_snr")
