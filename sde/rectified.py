"""Straight and other interpolants from data to noise, as diffusions: rectified flow, flow matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from backdrift.sde.arguments import check_fields
from backdrift.sde.gaussian import GaussianSDE, takes_numbers
from backdrift.sde.value_types import Range


@dataclass(frozen=True)
class Rectified(GaussianSDE):
    """The path of rectified flow and of flow matching, alpha = 1 - t and sigma = t:

        dx = -x/(1 - t) dt + sqrt(2t/(1 - t)) dw.

    Its probability flow has velocity E[eps - x_0 | x_t]. Liu, Gong & Liu (2022); Lipman et al. (2023).
    The SDE is singular at t = 1, where alpha vanishes. With T = 1, as networks of flow matching are trained, solvers
    begin at `start`, just before it.

    Args:
        T: end time, at most 1.

    Raises:
        ValueError: if T is not above 0 and at most 1.
    """

    T: Annotated[float, Range(above=0, most=1)] = 0.999

    def __post_init__(self) -> None:
        check_fields(self)

    @takes_numbers
    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    @takes_numbers
    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        return (2 * t / (1 - t)).sqrt()

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - t.log())

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)
