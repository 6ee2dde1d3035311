"""Processes with Gaussian marginals x_t = alpha(t) x_0 + sigma(t) eps, in closed form."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from backdrift.sde.process import SDE, Time, as_time

COEFFICIENTS = ("alpha", "sigma", "f", "g", "log_snr", "t_from_log_snr")


def takes_numbers(coefficient: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Let a coefficient written for tensors be called with a number too (taken as float64)."""

    @functools.wraps(coefficient)
    def wrapped(self: Any, t: Time) -> Tensor:
        return coefficient(self, t if isinstance(t, Tensor) else torch.tensor(float(t), dtype=torch.float64))

    return wrapped


def wide(t: Tensor) -> Tensor:
    """`t` in float64 where the device has it: derivatives and roots are taken there."""
    return t if t.device.type == "mps" else t.double()


@dataclass(frozen=True)
class Prior:
    """The normal density N(0, std^2 I) that stands for p_T.

    Args:
        std: standard deviation, in the units of x_T.
    """

    std: float

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """Draws of the given shape `[batch, ...]`; `kwargs` (dtype, device) go to `torch.randn`."""
        return self.from_noise(torch.randn(shape, generator=generator, **kwargs))

    def from_noise(self, noise: Tensor) -> Tensor:
        """std eps for standard normal eps `[batch, ...]`."""
        return self.std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; 0, std^2 I) in nats, `[batch]` for `x` `[batch, ...]`."""
        x = x.flatten(1)
        return -0.5 * (x / self.std).square().sum(1) - x.shape[1] * (math.log(self.std) + 0.5 * math.log(2 * math.pi))


class GaussianSDE(SDE):
    """dx = f(t) x dt + g(t) dw, whose marginals given x_0 are N(alpha(t) x_0, sigma(t)^2 I).

    A subclass must give `alpha` and `sigma` as functions of a tensor t of any shape; drift and
    diffusion follow by differentiation (Kingma et al. 2021, appendix D; Karras et al. 2022, eq. 28
    and 34, whose sigma is our sigma/alpha):

        f = d log(alpha)/dt,    g^2 = d(sigma^2)/dt - 2 f sigma^2,

    and may give `f`, `g`, `log_snr`, `t_from_log_snr` in closed form where that is faster or more
    accurate. `sde.check` compares what is declared with what the moment equations say.

    Everything is a function of log_snr = log(alpha^2/sigma^2), twice the half-log-SNR lambda, which
    must fall with t.

    Attributes:
        T: the end time.
        end_ratio: the ratio sigma/alpha at which solvers stop, giving `eps` (units of the data).
    """

    state_dependent = False
    has_denoiser = True
    end_ratio: ClassVar[float] = 2e-3

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in COEFFICIENTS:
            if name in cls.__dict__:
                setattr(cls, name, takes_numbers(cls.__dict__[name]))

    @takes_numbers
    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data at time t, positive on [0, T], alpha(0) = 1."""

    @takes_numbers
    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time t."""

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        """Drift rate f(t) = d log(alpha)/dt, per unit time."""
        u = wide(t)
        return torch.func.jvp(lambda u: self.alpha(u).log(), (u,), (torch.ones_like(u),))[1].to(t.dtype)

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        """Noise rate g(t) = sqrt(d(sigma^2)/dt - 2 f sigma^2), per square root of unit time."""
        u = wide(t)
        variance, slope = torch.func.jvp(lambda u: self.sigma(u).square(), (u,), (torch.ones_like(u),))[:2]
        return (slope - 2 * self.f(u) * variance).clamp(min=0).sqrt().to(t.dtype)

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), which is 2 lambda."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time in [0, T] at which `log_snr` is reached: its inverse, by bisection in float64."""
        target = wide(log_snr)
        low, high = torch.zeros_like(target), torch.full_like(target, self.T)
        for _ in range(100):
            middle = (low + high) / 2
            above = self.log_snr(middle) > target  # too little noise yet: go later
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return ((low + high) / 2).to(log_snr.dtype)

    @functools.cached_property
    def eps(self) -> float:
        """The time at which solvers end: where sigma/alpha = `end_ratio`, or 0 if it starts above."""
        return float(self.t_from_log_snr(torch.tensor(-2 * math.log(self.end_ratio), dtype=torch.float64)))

    @functools.cached_property
    def prior(self) -> Prior:
        """N(0, sigma(T)^2 I): p_T but for the mean and variance of alpha(T) x_0."""
        return Prior(float(self.sigma(torch.tensor(self.T, dtype=torch.float64))))

    def position_marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha(t) and sigma(t), each shaped like `t`: the state is the data's own."""
        return self.alpha(t), self.sigma(t)

    def prior_gap(self, x: Tensor, eps: float) -> float:
        """KL(N(m, v) | N(0, sigma_T^2)) in nats, for the mean and variances that data x have at T:

            sum_i [ m_i^2 + r_i - log(1 + r_i) ] / 2,    both m_i^2 and r_i in units of sigma_T^2.

        Args:
            x: data at time eps, `[batch, ...]`. A single sample has no known variance, which is then taken as 0.
            eps: the time of `x`.
        """
        kept = float(self.alpha(self.T)) / float(self.alpha(eps)) / float(self.sigma(self.T))
        x = kept * x.flatten(1).double()
        excess = x.var(0, correction=0)
        return 0.5 * float((x.mean(0).square() + excess - excess.log1p()).sum())

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """f(t) x."""
        return self.f(as_time(t, x)) * x

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        """g(t), broadcasting against x."""
        return self.g(as_time(t, x))

    def marginal(self, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean alpha(t) x_0 `[batch, ...]` and standard deviation sigma(t) of x_t given x_0."""
        t = as_time(t, x0)
        return self.alpha(t) * x0, self.sigma(t)

    def perturb(self, x0: Tensor, t: Time, noise: Tensor | None = None) -> Tensor:
        """A draw of x_t given x_0: alpha(t) x_0 + sigma(t) eps, eps ~ N(0, I) unless given."""
        mean, std = self.marginal(x0, t)
        return mean + std * (torch.randn_like(x0) if noise is None else noise)

    def transition(self, x_s: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t given x_s, for s <= t (Kingma et al. 2021, appendix A.1):

            mean = (alpha_t / alpha_s) x_s,    std^2 = sigma_t^2 (1 - SNR_t / SNR_s).

        Raises:
            ValueError: if any s > t.
        """
        s, t = self._ordered(s, t, x_s)
        return self.alpha(t) / self.alpha(s) * x_s, self.sigma(t) * self._fresh(s, t).sqrt()

    def bridge(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_s given x_t and x_0, for s <= t: the posterior

            mean = (alpha_t sigma_s^2) / (alpha_s sigma_t^2) x_t + alpha_s h x_0,
            std^2 = sigma_s^2 h,    h = 1 - SNR_t / SNR_s,

        Ho et al. (2020), eq. 6 and 7, for any two times (Kingma et al. 2021, appendix A.2). The lecture
        notes after Bishop have sqrt(1 - alpha_{t-1}) for sqrt(alpha_{t-1}) before x_0. McAllester's (2023)
        variance for Brownian motion, t - s, is this one, (t - s) s/t, to first order in t - s.

        Raises:
            ValueError: if any s > t.
        """
        s, t = self._ordered(s, t, x_t)
        h = self._fresh(s, t)
        kept = self.alpha(t) / self.alpha(s) * (self.sigma(s) / self.sigma(t)).square()
        return kept * x_t + self.alpha(s) * h * x0, self.sigma(s) * h.sqrt()

    def _fresh(self, s: Tensor, t: Tensor) -> Tensor:
        """1 - SNR_t/SNR_s, the share of sigma_t^2 that arrived after s, without cancellation."""
        # At s = t = 0 both are infinite, and their difference is none.
        return -torch.expm1(torch.where(s == t, 0.0, self.log_snr(t) - self.log_snr(s)).clamp(max=0))

    def _ordered(self, s: Time, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        s, t = as_time(s, x), as_time(t, x)
        if not torch.compiler.is_compiling() and bool((s > t).any()):
            raise ValueError(f"s, t: expected s <= t, got s = {s.flatten().tolist()}, t = {t.flatten().tolist()}")
        return s, t
