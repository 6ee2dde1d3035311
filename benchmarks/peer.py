"""The signature behind which the samplers of other libraries stand.

A peer is asked for x_0 by `run(denoise, x, nfe)`: `denoise(x, sigma)` is D for x = x_0 + sigma eps, x is at
sigma = `SIGMA_MAX`, and at most `nfe` evaluations may be made. Grids are those that the libraries
offer; sigma is in units of the data, whose standard deviation is given to those who ask for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

SIGMA_MAX = 80.0
Denoise = Callable[[Tensor, Tensor], Tensor]
Run = Callable[[Denoise, Tensor, int], Tensor | None]


@dataclass(frozen=True)
class Peer:
    """One sampler of a library with one setting.

    Args:
        library: the package's name.
        setting: the sampler and its setting, in words.
        run: (denoise, x, nfe) -> x_0; None if the budget does not pay for a step.
        stochastic: whether it draws noise.
        keeps_account: whether it keeps to the budget by an account of its own, rather than by making no more calls.
    """

    library: str
    setting: str
    run: Run
    stochastic: bool = False
    keeps_account: bool = False
