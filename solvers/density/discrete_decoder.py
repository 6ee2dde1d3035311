"""The mass of a normal decoder in the bins of discrete data."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def discretised(
    x: Tensor, mean: Tensor, std: Tensor | float, bin_size: float, low: float | None = None, high: float | None = None
) -> Tensor:
    """log of the mass that N(mean, std^2) has in the bins around x, in nats, `[batch]` (Ho et al. 2020, eq. 13):

        sum_i log[Phi((x_i + b/2 - m_i)/std) - Phi((x_i - b/2 - m_i)/std)].

    The lowest and the highest bin reach to infinity. The difference is taken in the tail where both ends are small, so
    that no mass is lost to rounding.

    Args:
        x: data on its levels, `[batch, ...]`.
        mean: of the decoder, like x.
        std: of the decoder.
        bin_size: b, the distance of two levels.
        low, high: the lowest and the highest level; bins at both ends are finite by default.
    """
    offset = (x - mean).double()
    half, std = 0.5 * bin_size, torch.as_tensor(std, dtype=torch.float64, device=x.device)
    upper, lower = (offset + half) / std, (offset - half) / std
    if high is not None:
        upper = upper.masked_fill(x >= high - 0.01 * bin_size, math.inf)
    if low is not None:
        lower = lower.masked_fill(x <= low + 0.01 * bin_size, -math.inf)
    # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): bins above the mean are mirrored to where Phi is small.
    flip = lower > -upper
    top, bottom = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_top, log_bottom = torch.special.log_ndtr(top), torch.special.log_ndtr(bottom)
    log_mass = log_top + torch.log1p(-torch.exp((log_bottom - log_top).clamp(max=0)).clamp(max=1 - 1e-16))
    return log_mass.flatten(1).sum(1).to(x.dtype)
