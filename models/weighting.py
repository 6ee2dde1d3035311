"""Weightings of the denoiser's squared error over the noise levels."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.sde.checks import require_choice

Weighting = Literal["edm", "likelihood", "snr", "noise", "uniform"]
"""The weightings of the denoiser's squared error; see `weight`."""


def weight(weighting: Weighting, sde: GaussianSDE, t: Tensor, data_std: float) -> Tensor:
    """The weight w(t) of the denoiser's squared error |D(x_t, t) - x_0|^2, shaped like `t`. With s = sigma/alpha:

    - edm: (s^2 + d^2)/(s d)^2, with which the preconditioned network has a loss of order one at every s (Karras et al.
      2022);
    - likelihood: g^2/2 (alpha/sigma^2)^2, which is the score's squared error weighted by g^2/2. Its integral over t
      bounds KL(data | model) up to constants (Song, Durkan, Murray & Ermon 2021, theorem 1);
    - snr: 1/s^2;
    - noise: 1/s^2 too, because |D - x_0|^2/s^2 is the squared error |eps_hat - eps|^2 of the predicted noise, the
      simple loss of the lecture (Ho et al. 2020, eq. 14; the identity is in Salimans & Ho 2022, section 4). The notes
      after Bishop call the negative of it the loss, as a part of a bound that is to be maximised;
    - uniform: 1.

    Args:
        weighting: which one.
        sde: the process.
        t: times, of any shape.
        data_std: d, the standard deviation of the data.

    Raises:
        ValueError: if `weighting` is none of these.
    """
    require_choice("weighting", weighting, get_args(Weighting))
    snr = sde.log_snr(t).exp()
    if weighting == "edm":
        return snr + data_std**-2
    if weighting == "likelihood":
        return 0.5 * snr * (sde.g(t) / sde.sigma(t)).square()
    return torch.ones_like(t) if weighting == "uniform" else snr
