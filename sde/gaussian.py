"""Processes with Gaussian marginals x_t = alpha(t) x_0 + sigma(t) eps, in closed form."""

from __future__ import annotations

import functools
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from backdrift.sde.prior import DataMoments, Prior
from backdrift.sde.process import SDE, Time, as_time, wide
from backdrift.sde.tensor_checks import extremes, require_numbers, require_shape, require_state, require_times
from backdrift.sde.value_types import got

COEFFICIENTS = ("alpha", "sigma", "f", "g", "log_snr", "t_from_log_snr")
"""The methods of a `GaussianSDE` that take a time, or a log-SNR, and that may be called with a plain number."""


# The arguments are Any: a subclass writes `alpha(self, t: Tensor)`, narrower than what callers may give.
def takes_numbers(coefficient: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Let a coefficient that is written for floating-point tensors be called with numbers and integers too.

    They become float64. Times are checked to lie in [0, T], and a log-SNR not to be nan, see `require_times`.
    """
    if hasattr(coefficient, "takes_numbers"):  # it is wrapped already
        return coefficient
    (name,) = list(inspect.signature(coefficient).parameters)[1:]
    of_time = coefficient.__name__ != "t_from_log_snr"

    @functools.wraps(coefficient)
    def wrapped(self: Any, t: Time) -> Tensor:
        if of_time:
            require_times(t, self.T, name)
        else:
            _require_no_nan(t, name)
        value = coefficient(self, t if isinstance(t, Tensor) and t.is_floating_point() else wide(t))
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{coefficient.__name__}: expected a tensor shaped like {name}, got {got(value)}; "
                f"a constant c is torch.full_like({name}, c)"
            )
        return value

    wrapped.takes_numbers = True  # type: ignore[attr-defined]
    return wrapped


def _require_no_nan(value: Time, name: str) -> None:
    """Raise unless `value` holds numbers, and no nan as far as that can be seen without waiting."""
    require_numbers(name, value)
    found = extremes(value)
    if found is not None and found[0] != found[0]:
        raise ValueError(f"{name}: expected numbers, got nan")


def value_and_derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """function(t) and its derivative at each of the times `t` `[...]`, by forward-mode autograd."""
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))[:2]


class GaussianSDE(SDE):
    """dx = f(t) x dt + g(t) dw, whose marginals given x_0 are N(alpha(t) x_0, sigma(t)^2 I).

    A subclass must give `alpha` and `sigma` as functions of a tensor t of any shape. Drift and diffusion follow by
    differentiation (Kingma et al. 2021, appendix D; Karras et al. 2022, eq. 28 and 34, whose sigma is our
    sigma/alpha):

        f = d log(alpha)/dt,    g^2 = d(sigma^2)/dt - 2 f sigma^2.

    A subclass may also give `f`, `g`, `log_snr` and `t_from_log_snr` in closed form, where that is faster or more
    accurate. `sde.check` compares what a process declares with what the moment equations say.

    Every coefficient is a function of log_snr = log(alpha^2/sigma^2), twice the half-log-SNR lambda. It must fall
    with t.

    Attributes:
        T: the end time.
        end_ratio: the ratio sigma/alpha at which solvers stop, in the units of the data. It gives `eps`.
        start_ratio: the ratio sigma/alpha at which solvers start where it is infinite at T. It gives `start`.
    """

    state_dependent = False
    has_denoiser = True
    end_ratio: ClassVar[float] = 2e-3
    start_ratio: ClassVar[float] = 4096.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in COEFFICIENTS:
            if name in cls.__dict__:
                setattr(cls, name, takes_numbers(cls.__dict__[name]))

    @takes_numbers
    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data at time t, positive on [0, T), alpha(0) = 1. It may be 0 at T; then see `start`."""

    @takes_numbers
    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time t."""

    @takes_numbers
    def f(self, t: Tensor) -> Tensor:
        """Drift rate f(t) = d log(alpha)/dt, per unit time."""
        return self.log_alpha_derivative(wide(t)).to(t.dtype)

    def log_alpha_derivative(self, t: Tensor) -> Tensor:
        """d log(alpha)/dt by automatic differentiation of `alpha`, whatever `f` a subclass gives."""
        return value_and_derivative(lambda u: self.alpha(u).log(), t)[1]

    @takes_numbers
    def g(self, t: Tensor) -> Tensor:
        """Noise rate g(t) = sqrt(d(sigma^2)/dt - 2 f sigma^2), per square root of unit time."""
        u = wide(t)
        variance, slope = value_and_derivative(lambda u: self.sigma(u).square(), u)
        return (slope - 2 * self.f(u) * variance).clamp(min=0).sqrt().to(t.dtype)

    @takes_numbers
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), which is 2 lambda."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    @takes_numbers
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time in [0, T] at which `log_snr` is reached. This inverse is found by bisection in float64.

        It has a first derivative in `log_snr`, that of an inverse function: 1 over the slope of `log_snr` in t.
        """
        target = wide(log_snr)
        low, high = torch.zeros_like(target), torch.full_like(target, self.T)
        for _ in range(100):
            middle = (low + high) / 2
            above = self.log_snr(middle) > target  # there is too little noise yet, so the time is later
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        t = (low + high) / 2
        if target.requires_grad:  # halving has no derivative, which fits of times ask for
            t = t + (target - target.detach()) / value_and_derivative(self.log_snr, t)[1]
        return t.to(log_snr.dtype)

    @functools.cached_property
    def eps(self) -> float:
        """The time at which solvers stop. There sigma/alpha = `end_ratio`; it is 0 if sigma/alpha starts above that."""
        return float(
            self.t_from_log_snr(torch.tensor(-2 * math.log(self.end_ratio), dtype=torch.float64, device="cpu"))
        )

    @functools.cached_property
    def start(self) -> float:
        """The time at which solvers start. It is T, or if alpha(T) = 0 the time at which sigma/alpha = `start_ratio`.

        At T itself such a process has no finite coordinates: the drift and log_snr are infinite. At `start` the state
        holds the data with a weight of 1/4096, as in diffusers, which sets alpha^2 = 2^-24 at the last step.
        """
        end = torch.tensor(self.T, dtype=torch.float64, device="cpu")
        if float(self.alpha(end)) > 0:
            return float(self.T)
        return float(self.t_from_log_snr(torch.full_like(end, -2 * math.log(self.start_ratio))))

    @functools.cached_property
    def prior(self) -> Prior:
        """N(0, sigma^2 I) at `start`, which is T. It is the marginal without the mean and variance of alpha x_0."""
        return Prior(float(self.sigma(torch.tensor(self.start, dtype=torch.float64, device="cpu"))))

    def position_marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha(t) and sigma(t), each shaped like `t`. The whole state is the data's part."""
        return self.alpha(t), self.sigma(t)

    def prior_for(self, moments: DataMoments | None) -> Prior:
        """N(alpha_T m, alpha_T^2 v + sigma_T^2), with m and v the mean and the variance of each component of the data.

        It has the mean and the variances of p_T. Without moments it is `prior`.
        """
        if moments is None:
            return self.prior
        end = torch.tensor(self.start, dtype=torch.float64, device="cpu")
        alpha, sigma = float(self.alpha(end)), float(self.sigma(end))
        mean, variance = (torch.as_tensor(value, dtype=torch.float64, device="cpu") for value in moments)
        return Prior((alpha**2 * variance + sigma**2).sqrt(), alpha * mean)

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """f(t) x."""
        return self.f(as_time(t, x, self.T)) * x

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        """g(t), broadcasting against x."""
        return self.g(as_time(t, x, self.T))

    def marginal(self, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean alpha(t) x_0 `[batch, ...]` and standard deviation sigma(t) of x_t given x_0."""
        t = as_time(t, x0, self.T)
        return self.alpha(t) * x0, self.sigma(t)

    def perturb(self, x0: Tensor, t: Time, noise: Tensor | None = None) -> Tensor:
        """A draw of x_t given x_0, alpha(t) x_0 + sigma(t) eps, where `noise` is eps, drawn from N(0, I) by default.

        Raises:
            ValueError: if `noise` does not have the shape of x_0.
        """
        mean, std = self.marginal(x0, t)
        if noise is None:
            noise = torch.randn_like(x0)
        require_shape("noise", noise, x0)
        return mean + std * noise

    def transition(self, x_s: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t given x_s, for s <= t (Kingma et al. 2021, appendix A.1):

            mean = (alpha_t / alpha_s) x_s,    std^2 = sigma_t^2 (1 - SNR_t / SNR_s).

        Raises:
            ValueError: if any s > t.
        """
        s, t = self._ordered(s, t, x_s)
        kept, std = self.alpha(t) / self.alpha(s), self.sigma(t) * self._fresh(s, t).sqrt()
        return kept.to(x_s.dtype) * x_s, std.to(x_s.dtype)

    def bridge(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_s given x_t and x_0, for s <= t:

            mean = (alpha_t sigma_s^2) / (alpha_s sigma_t^2) x_t + alpha_s h x_0,
            std^2 = sigma_s^2 h,    h = 1 - SNR_t / SNR_s.

        This is the posterior of Ho et al. (2020), eq. 6 and 7, for any two times (Kingma et al. 2021, appendix A.2).
        The lecture notes after Bishop have sqrt(1 - alpha_{t-1}) before x_0, where sqrt(alpha_{t-1}) is right.
        McAllester's (2023) variance for Brownian motion is t - s. The one here, (t - s) s/t, agrees with it to first
        order in t - s.

        Raises:
            ValueError: if any s > t.
        """
        require_shape("x0", x0, x_t)
        s, t = self._ordered(s, t, x_t)
        h = self._fresh(s, t)
        kept = self.alpha(t) / self.alpha(s) * (self.sigma(s) / self.sigma(t)).square()
        pull, std = self.alpha(s) * h, self.sigma(s) * h.sqrt()
        return kept.to(x_t.dtype) * x_t + pull.to(x_t.dtype) * x0, std.to(x_t.dtype)

    def _fresh(self, s: Tensor, t: Tensor) -> Tensor:
        """1 - SNR_t/SNR_s, the share of sigma_t^2 that was added after s, computed without cancellation."""
        # At s = t = 0 both log-SNRs are infinite; the difference that is meant is 0.
        return -torch.expm1(torch.where(s == t, 0.0, self.log_snr(t) - self.log_snr(s)).clamp(max=0))

    def _ordered(self, s: Time, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        """s and t, shaped to broadcast against x, after checking that s <= t.

        They are in float64 where the device has it: the difference of two near times has few digits in float32.
        """
        require_state(x)
        require_times(s, self.T, "s")
        require_times(t, self.T)
        like = wide(x.new_empty(())).expand(x.shape)  # one number, in the shape of x
        s, t = as_time(s, like), as_time(t, like)
        if not torch.compiler.is_compiling() and bool((s > t).any()):
            raise ValueError(f"s, t: expected s <= t, got s = {s.flatten().tolist()}, t = {t.flatten().tolist()}")
        return s, t
