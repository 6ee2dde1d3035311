"""Processes that are not Gaussian, with known densities: x = exp(y) with a Gaussian y."""

import math

from torch import Tensor

from backdrift.sde import SDE, Time


class GeometricBrownian(SDE):
    """dx = mu x dt + nu x dw in each component: x_t = x_0 exp((mu - nu^2/2) t + nu w_t)."""

    def __init__(self, mu: float = 0.3, nu: float = 0.5, T: float = 1.0) -> None:
        self.mu, self.nu, self.T = mu, nu, T

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return self.mu * x

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return self.nu * x


class LogNormal(SDE):
    """x = exp(y) of dy = -y dt + s dw, so by Ito's formula

        dx = x (s^2/2 - log x) dt + s x dw,

    and the data log-normal, y_0 ~ N(m, v): log p_t and its score are known at every t.
    """

    T, s, m, v = 1.0, 0.8, 0.7, 0.36

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return x * (0.5 * self.s**2 - x.log())

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return self.s * x

    def moments(self, t: Time) -> tuple[float, float]:
        """The mean and variance of y_t."""
        decay = math.exp(-float(t))
        return decay * self.m, decay**2 * self.v + 0.5 * self.s**2 * (1 - decay**2)


class LogNormalModel:
    """The score of `LogNormal`."""

    sde = LogNormal()

    def score(self, x: Tensor, t: Time) -> Tensor:
        mean, variance = self.sde.moments(t)
        return -(1 + (x.log() - mean) / variance) / x
