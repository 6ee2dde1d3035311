"""A Gaussian process from two functions, as flow matching and stochastic interpolants have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.sde.arguments import check_fields
from backdrift.sde.gaussian import GaussianSDE
from backdrift.sde.process import Time, wide
from backdrift.sde.value_types import Positive


@dataclass(frozen=True)
class Interpolant(GaussianSDE):
    """The process x_t = alpha(t) x_0 + sigma(t) eps of two given functions.

    Drift and diffusion follow by differentiation, see `GaussianSDE`. Lipman et al. (2023), eq. 10; Albergo et al.
    (2023), section 4. `Rectified` is the one with alpha = 1 - t and sigma = t, in closed form.

    Many networks of flow matching have their data at time 1 and their noise at time 0. `reversed=True` is for them: the
    functions take the time tau of the network, and our t is T - tau.

        >>> Interpolant(lambda tau: tau, lambda tau: 1 - tau, reversed=True)

    Args:
        data_weight: alpha, a function of a tensor of times of any shape, built of torch's operations.
        noise_weight: sigma, likewise. alpha/sigma must fall from data to noise. alpha may be 0 there, see `start`.
        T: the length of the time.
        reversed: whether the functions have the noise at time 0 and the data at time T.

    Raises:
        ValueError: if an argument is not of its kind, alpha is not 1 at the data, or alpha or sigma is negative or not
            finite at some time, or alpha/sigma does not fall towards the noise.
    """

    data_weight: Callable[[Tensor], Tensor]
    noise_weight: Callable[[Tensor], Tensor]
    T: Positive = 1.0
    reversed: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        t = torch.linspace(0, self.T, 257, dtype=torch.float64, device="cpu")
        alpha, sigma = (self._checked(name, t) for name in ("data_weight", "noise_weight"))
        other = "" if self.reversed else "; reversed=True is for data at time T"
        if abs(float(alpha[0]) - 1) > 1e-6:
            raise ValueError(
                f"data_weight: expected 1 at the data, time {self.network_time(0.0):g}, "
                f"got {float(alpha[0]):.6g}{other}"
            )
        if not bool((alpha[1:] * sigma[:-1] < alpha[:-1] * sigma[1:]).all()):
            raise ValueError(f"noise_weight: expected noise_weight/data_weight to rise from data to noise{other}")

    def _checked(self, name: str, t: Tensor) -> Tensor:
        """The values of a function at times t, after checks of their shape and range."""
        value = getattr(self, name)(self.network_time(t))
        if not isinstance(value, Tensor) or value.shape != t.shape:
            got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: expected a function that returns a tensor shaped like its times, got {got}")
        # Differences such as 1 - t may round to less than 0 at an end.
        if not bool((value.isfinite() & (value >= -1e-12)).all()):
            worst = value[~(value.isfinite() & (value >= -1e-12))][0]
            raise ValueError(f"{name}: expected finite numbers of at least 0 on [0, {self.T:g}], got {float(worst):g}")
        return value

    def network_time(self, t: Time) -> Tensor:
        """The time of the functions, and of the network that was trained with them, for our time t: t, or T - t."""
        t = t if isinstance(t, Tensor) else wide(t)
        return self.T - t if self.reversed else t

    def time(self, network_time: Time) -> Tensor:
        """Our time t for a time of the network; the inverse of `network_time`, which is the same map."""
        return self.network_time(network_time)

    def alpha(self, t: Tensor) -> Tensor:
        return self.data_weight(self.network_time(t)).clamp(min=0)

    def sigma(self, t: Tensor) -> Tensor:
        return self.noise_weight(self.network_time(t)).clamp(min=0)
