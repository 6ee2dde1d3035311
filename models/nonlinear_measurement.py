"""Measurements that are not linear, or whose noise is not normal: what DPS and TMPD take, and particles by TMPD."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

from backdrift.models.measurement import noise_numbers, numbers_told, require_samples, require_value
from backdrift.models.operator_checks import probe_dtype, require_differentiable, require_linear, require_operator
from backdrift.models.operators import LinearOperator
from backdrift.sde.checks import require_positive
from backdrift.sde.jacobian import graph_kept, start_of_graph

Self = TypeVar("Self", bound="DifferentiableMeasurement")  # typing.Self needs Python 3.11


class DifferentiableMeasurement(ABC):
    """y with independent components, whose mean given x_0 is a differentiable function f(x_0).

    A subclass gives the variance of y and its log-density. The function is tried on random samples of many sizes:
    whether it has a derivative, and sees each sample by itself.

    Args:
        function: f, from samples `[batch, *shape]` to means `[batch, ...]`. A sample's mean depends on it alone.
        shape: of one sample.
        value: y, one for all samples, or one for each along a first axis. Without that axis it is shaped like one mean.

    Raises:
        TypeError: if `value` is not a tensor of real numbers, or `function` gives other values.
        ValueError: if `value` is not finite, or not shaped like a mean, or the derivative of `function` is not known or
            is 0.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], shape: Sequence[int], value: Tensor) -> None:
        require_value(value)
        self.function, self.sample_shape, self.value = function, tuple(int(n) for n in shape), value
        require_differentiable(function, self.sample_shape, value)
        with torch.no_grad():
            zero = torch.zeros(1, *self.sample_shape, dtype=probe_dtype(value), device=value.device)
            self.shape = tuple(function(zero).shape[1:])
        if tuple(value.shape) != self.shape and tuple(value.shape[1:]) != self.shape:
            raise ValueError(
                f"value: expected shape {list(self.shape)}, or one more axis with one measurement for each sample, got "
                f"{list(value.shape)}"
            )

    @property
    def size(self) -> int:
        """m, the number of components of one measurement."""
        return math.prod(self.shape)

    @property
    def each(self) -> bool:
        """Whether there is one measurement for each sample."""
        return self.value.ndim > len(self.shape)

    def select(self: Self, indices: Tensor) -> Self:
        """The measurements of the samples at `indices` `[n]`."""
        if not self.each or len(self.value) == 1:
            return self
        other = object.__new__(type(self))
        other.__dict__.update({**vars(self), "value": self.value[indices]})
        return other

    def mean(self, x: Tensor) -> Tensor:
        """f(x), flattened, `[batch, m]`."""
        return self.function(x).flatten(1)

    def residual(self, x: Tensor) -> Tensor:
        """y - f(x) for samples x, flattened, `[batch, m]`.

        Raises:
            ValueError: if x does not have the shape of a sample, or there is one y for each of other than `batch`
                samples.
        """
        require_samples(x, self.sample_shape, len(self.value) if self.each else None)
        return (self.value.to(x, non_blocking=True) - self.function(x)).flatten(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(y | x_0 = x) in nats, `[batch]`, for samples x `[batch, ...]`."""
        mean = self.mean(x)
        return self.log_predictive(mean, torch.zeros_like(mean))

    def push(self, x: Tensor, u: Tensor) -> Tensor:
        """J_f(x) u, `[batch, m]`, for directions u shaped like x."""
        return cast(Tensor, torch.func.jvp(self.mean, (x,), (u,))[1])

    def pull(self, x: Tensor, v: Tensor) -> Tensor:
        """J_f(x)^T v, shaped like x, for v `[batch, m]`. It has derivatives where x asks for them."""
        kept = torch.is_grad_enabled() and x.requires_grad
        with graph_kept():
            point = x if kept else start_of_graph(x)
            return torch.autograd.grad(self.mean(point), point, v, create_graph=kept)[0]

    @abstractmethod
    def variance(self, mean: Tensor) -> Tensor:
        """The variance of y for means f(x_0), `[batch, m]`."""

    @abstractmethod
    def log_predictive(self, mean: Tensor, spread: Tensor) -> Tensor:
        """log p(y) in nats, `[batch]`, where f(x_0) is uncertain, with `mean` and the variance `spread`, `[batch, m]`.

        With spread 0 it is log p(y | x_0).
        """


class NonlinearMeasurement(DifferentiableMeasurement):
    """y = f(x_0) + noise, with independent noise N(0, std^2).

    Args:
        function: f, differentiable, from samples `[batch, *shape]` to measurements `[batch, ...]`.
        shape: of one sample.
        value: y, one for all samples, or one for each along a first axis.
        std: a positive number, or a tensor of them shaped like one measurement.

    Raises:
        ValueError: as `DifferentiableMeasurement` does, or if `std` is not positive or of another shape.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], shape: Sequence[int], value: Tensor, std: float | Tensor
    ) -> None:
        super().__init__(function, shape, value)
        self.std = noise_numbers("std", std)
        if self.std.shape not in ((), self.shape) or not bool(((self.std > 0) & self.std.isfinite()).all()):
            raise ValueError(
                f"std: expected a positive number, or {list(self.shape)} of them, got {numbers_told(self.std)}"
            )

    def variance(self, mean: Tensor) -> Tensor:
        return self.std.to(mean).expand(self.shape).reshape(1, -1).square().expand_as(mean)

    def log_predictive(self, mean: Tensor, spread: Tensor) -> Tensor:
        total = self.variance(mean) + spread
        r = self.value.to(mean).reshape(-1, self.size) - mean
        return -0.5 * (r.square() / total + (2 * math.pi * total).log()).sum(1)


class PoissonMeasurement(DifferentiableMeasurement):
    r"""y = gain n with counts n that have Poisson's law with the mean (A x_0 + b) / gain, as of photons.

    .. math:: \log p(y | x_0) = \sum_i n_i \log \mu_i - \mu_i - \log n_i!, \qquad \mu = (A x_0 + b) / gain

    A mean below `LEAST` counts, as where x_0 is negative, stands for `LEAST`.

    Args:
        operator: A.
        value: y, one for all samples, or one for each along a first axis; multiples of `gain`, not negative.
        gain: the value of one count.
        background: b, the mean of y where x_0 is 0, a number or a tensor of them shaped like one measurement. It may be
            negative where x_0 is shifted.

    Raises:
        ValueError: as `DifferentiableMeasurement` does, or if `gain` is not positive, `value` not counts times it, or
            `background` not finite or of another shape.
    """

    LEAST = 1e-6

    def __init__(
        self, operator: LinearOperator, value: Tensor, gain: float = 1.0, background: float | Tensor = 0.0
    ) -> None:
        require_positive(gain=gain)
        require_operator(operator)
        require_value(value)
        require_linear(operator, value)
        dark = noise_numbers("background", background)
        super().__init__(lambda x: operator(x) + dark.to(x, non_blocking=True), operator.shape, value)
        if dark.shape not in ((), self.shape) or not bool(dark.isfinite().all()):
            got = numbers_told(dark)
            raise ValueError(f"background: expected a finite number, or {list(self.shape)} of them, got {got}")
        self.gain = float(gain)
        counts = value.double() / self.gain
        if not bool(((counts >= 0) & ((counts - counts.round()).abs() < 1e-3)).all()):
            raise ValueError(f"value: expected counts times the gain {self.gain:g}, 0 or more, got other numbers")

    def variance(self, mean: Tensor) -> Tensor:
        """gain A x_0, and at least that of one count, so that a guide does not take dark pixels for certain ones."""
        return self.gain * mean.clamp(min=self.gain)

    def log_predictive(self, mean: Tensor, spread: Tensor) -> Tensor:
        """By the negative binomial law, that of counts whose mean has a gamma density with this mean and variance."""
        n = (self.value.to(mean).double() / self.gain).round().reshape(-1, self.size)
        mu = (mean.double() / self.gain).clamp(min=self.LEAST)
        shape = mu.square() / (spread.double() / self.gain**2).clamp(min=1e-300)  # of the gamma density
        poisson = n * mu.log() - mu - (n + 1).lgamma()
        large = shape > 1e5 * (1 + n + mu)  # the differences of lgamma would lose their digits
        r = torch.where(large, torch.ones_like(shape), shape)
        exact = (n + r).lgamma() - r.lgamma() - (n + 1).lgamma() - r * (mu / r).log1p() + n * (mu / (r + mu)).log()
        near = poisson + ((n - mu).square() - n) / (2 * shape)
        return torch.where(large, near, exact).sum(1).to(mean)
