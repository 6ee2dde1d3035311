"""Do importance weights leave a loss with a variance that training can live with?"""

from __future__ import annotations

import functools
import warnings

import torch

from backdrift.models.times import TimeDistribution
from backdrift.models.weighting import Weighting, weight
from backdrift.sde import GaussianSDE

LEAST = 1e-3
"""The least effective share of draws. Below it a batch of a thousand is worth less than one draw."""

FEW = 1e-2
"""The effective share of draws below which a warning is given."""


def effective_share(weighting: Weighting, times: TimeDistribution, sde: GaussianSDE, data_std: float) -> float:
    r"""How many draws of t from q are worth one draw with the least variance: Kong's (1992) effective sample size of

    .. math:: \frac{(\int r \, dt)^2}{\int r^2 / q \, dt}, \quad r(t) = w(t) \frac{s^2 d^2}{s^2 + d^2},

    from 0 to 1, where w is the weighting. r is the loss at t of normal data of standard deviation d, whose denoiser has
    the error s^2 d^2/(s^2 + d^2) at s = sigma/alpha. It is 0 where the second moment is infinite. The integrals from
    eps to T are taken by the trapezoidal rule in float64, at times even in t and in log-SNR.

    Args:
        weighting: see `weight`.
        times: the distribution q.
        sde: the process.
        data_std: d.
    """
    first, last = float(sde.log_snr(sde.eps)), float(sde.log_snr(sde.start))
    levels = torch.linspace(first, last, 2001, dtype=torch.float64, device="cpu")
    even = torch.linspace(sde.eps, sde.start, 2001, dtype=torch.float64, device="cpu")
    t = torch.cat([sde.t_from_log_snr(levels).clamp(sde.eps, sde.start), even]).unique()
    if sde.eps == 0 and float(sde.sigma(0.0)) == 0:
        t = t[1:]  # the weights may be infinite at the very end
    s2 = (-sde.log_snr(t)).exp()
    loss = weight(weighting, sde, t, data_std) * s2 * data_std**2 / (s2 + data_std**2)
    second = torch.trapezoid(loss.square() / times.density(t, sde), t)
    return float(torch.trapezoid(loss, t).square() / second)


def require_useful(weighting: Weighting, times: TimeDistribution, sde: GaussianSDE, data_std: float) -> None:
    """Raise if the importance weights of a loss are useless, and warn if they are poor; see `effective_share`.

    With weights that vary so much, nearly all of the gradient is in draws that training never makes.

    Raises:
        ValueError: if the effective share of draws is below `LEAST`.
    """
    try:
        share = _known_share(weighting, times, sde, data_std)
    except TypeError:  # a process or distribution that cannot be hashed
        share = effective_share(weighting, times, sde, data_std)
    if share >= FEW:
        return
    worth = "infinitely many" if share == 0 else f"{1 / share:,.0f}"
    message = (
        f"importance: {worth} draws of {type(times).__name__} are worth one draw for the weighting {weighting!r} under "
        f"{type(sde).__name__}; take times=LikelihoodTimes()"
    )
    if not share >= LEAST:
        raise ValueError(message)
    warnings.warn(message, stacklevel=4)


_known_share = functools.lru_cache(maxsize=64)(effective_share)
