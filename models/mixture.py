"""Gaussian mixtures, whose score is known in closed form at every time of every Gaussian process."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from backdrift.sde import DataMoments, GaussianSDE, Model, Time, as_time
from backdrift.sde.checks import require_integer
from backdrift.sde.process import extremes, require_state

NUMBERS = 2**22
"""Numbers `[batch, K, d]` that a call has in memory at once, up to a few copies of them: 32 MB each in float64."""

Method = TypeVar("Method", bound=Callable[..., Tensor])


def in_chunks(method: Method) -> Method:
    """Run a method of (x, t) on parts of the batch that have `NUMBERS` numbers each, so that its memory is bounded."""

    @functools.wraps(method)
    def wrapped(self: GaussianMixture, x: Tensor, t: Time | None = None) -> Tensor:
        rows = max(1, NUMBERS // self.means.numel())
        if not isinstance(x, Tensor) or x.ndim == 0 or len(x) <= rows:
            return method(self, x, t)
        parts = x.split(rows)
        one_each = isinstance(t, Tensor) and t.shape == x.shape[:1]
        times = cast(Tensor, t).split(rows) if one_each else [t] * len(parts)
        return torch.cat([method(self, part, when) for part, when in zip(parts, times, strict=True)])

    return cast(Method, wrapped)


class GaussianMixture(Model):
    """The data density p_0 = sum_k w_k N(m_k, C_k), which gives p_t = sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I).

    Score, denoiser and density are exact at any t, so every solver and every estimate can be tested against them. The
    denoiser is

        E[x_0 | x_t] = sum_k r_k (m_k + alpha C_k S_k^-1 (x - alpha m_k)),

    where S_k is the noised covariance and r_k are the responsibilities (Bishop 2006, eq. 2.81 and 9.13). With one
    component the density is normal. Covariances are diagonalised once, so that a call costs K d^2 operations a sample.

    Args:
        means: m_k, `[K, ...]`. The shape after K is the shape of a sample.
        covariances: C_k, positive semi-definite: a number, the variance of K isotropic covariances; variances
            `[K, d]`; or full matrices `[K, d, d]`, where d is the size of a sample.
        weights: w_k, `[K]`, not negative. They are divided by their sum. All are equal by default.
        sde: the process that the times t belong to. `under` makes a copy for another process.

    Raises:
        ValueError: if shapes do not agree, a weight is negative, or a covariance is not symmetric and positive
            semi-definite.
    """

    exact = True

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor | float,
        weights: Tensor | None = None,
        sde: GaussianSDE | None = None,
    ) -> None:
        means = torch.as_tensor(means)
        if means.ndim < 2:
            raise ValueError(f"means: expected shape [K, ...], got {list(means.shape)}")
        self.shape = means.shape[1:]
        self.means = means.flatten(1)
        k, d = self.means.shape
        covariances = torch.as_tensor(covariances, dtype=means.dtype, device=means.device)
        if covariances.ndim == 0:
            covariances = covariances.expand(k, d)
        if covariances.shape == (k, d):
            if not bool((covariances >= 0).all()):
                raise ValueError(f"covariances: expected no negative variance, got {float(covariances.min()):.3g}")
            self.variances, self.axes = covariances, None
        elif covariances.shape == (k, d, d):
            scale = covariances.abs().amax().clamp(min=1e-30)
            if (covariances - covariances.mT).abs().max() > 1e-5 * scale:
                raise ValueError("covariances: expected symmetric matrices")
            variances, axes = torch.linalg.eigh(covariances.double())
            if variances.min() < -1e-6 * variances.max():
                raise ValueError(f"covariances: expected no negative eigenvalue, got {float(variances.min()):.3g}")
            self.variances, self.axes = variances.clamp(min=0).to(means), axes.to(means)
        else:
            raise ValueError(
                f"covariances: expected a number, [{k}, {d}] or [{k}, {d}, {d}], got {list(covariances.shape)}"
            )
        weights = torch.ones(k) if weights is None else torch.as_tensor(weights)
        if weights.shape != (k,) or bool((weights < 0).any()) or not bool(weights.sum() > 0):
            raise ValueError(f"weights: expected {k} positive numbers, got {weights.tolist()}")
        self.log_weights = (weights / weights.sum()).to(means).log()
        if sde is not None:
            self.sde = sde

    @property
    def data_moments(self) -> DataMoments:  # type: ignore[override]
        """The mean and the variance of each component of the data, shaped like a sample."""
        weights = self.log_weights.exp()[:, None]
        mean = (weights * self.means).sum(0)
        within = self.variances if self.axes is None else torch.einsum("kde,ke->kd", self.axes.square(), self.variances)
        variance = (weights * ((self.means - mean).square() + within)).sum(0)
        return DataMoments(mean.reshape(self.shape), variance.reshape(self.shape))

    @property
    def data_std(self) -> float:
        """Standard deviation of the data: the root of the mean variance of a sample's components."""
        return float(self.data_moments.variance.mean().sqrt())

    def under(self, sde: GaussianSDE) -> GaussianMixture:
        """The same density for the times of another process."""
        return self._copy(sde=sde)

    def to(self, *args: Any) -> GaussianMixture:  # whatever torch.Tensor.to takes
        """The same density with its tensors on another device, in another dtype, or both; see `torch.Tensor.to`."""
        moved = {name: value.to(*args) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return self._copy(**moved)

    def _copy(self, **changes: object) -> GaussianMixture:
        """A copy with other attributes. It does not diagonalise the covariances again."""
        other = object.__new__(GaussianMixture)
        other.__dict__.update({**vars(self), **changes})
        return other

    def _coefficients(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """alpha and sigma^2, `[batch, 1, 1]`, or `[1, 1, 1]` for a scalar t."""
        if not hasattr(self, "sde"):
            raise ValueError("sde: this mixture has no process; give one with `under(sde)`")
        t = as_time(t, x, self.sde.T).reshape(-1, 1, 1)
        return self.sde.alpha(t), self.sde.sigma(t).square()

    def _parts(self, x: Tensor, alpha: Tensor, sigma2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the density, the score and the denoiser are made of.

        Returns:
            x - alpha m_k and the variances of S_k, both along the axes of S_k, `[batch, K, d]`; and
            log(w_k N(x; alpha m_k, S_k)), `[batch, K]`.

        Raises:
            ValueError: if the samples do not have the size of the means.
        """
        require_state(x)
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.means.shape[1]:
            expected = ", ".join(["batch", *map(str, self.shape)])
            raise ValueError(f"x: expected [{expected}], as the means have it, got shape {list(x.shape)}")
        offset = x.flatten(1).unsqueeze(1) - alpha * self.means
        if self.axes is not None:
            offset = torch.einsum("kde,bkd->bke", self.axes, offset)
        variance = alpha.square() * self.variances + sigma2
        exponent = (offset.square() / variance + variance.log()).sum(-1)
        return offset, variance, self.log_weights - 0.5 * (exponent + offset.shape[-1] * math.log(2 * math.pi))

    def _mix(self, parts: Tensor, log_joint: Tensor) -> Tensor:
        """The sum of vectors `[batch, K, d]` along the axes of S_k, weighted by the responsibilities: `[batch, d]`."""
        parts = log_joint.softmax(-1).unsqueeze(-1) * parts
        return parts.sum(1) if self.axes is None else torch.einsum("kde,bke->bd", self.axes, parts)

    def _require_density(self, sigma2: Tensor) -> None:
        """Raise unless p_t has a density. It has none where there is no noise and a covariance is singular."""
        least = extremes(sigma2)
        if least is not None and least[0] == 0 and bool((self.variances == 0).any()):
            raise ValueError("t: expected a time at which sigma is positive, since a covariance here is singular")

    @in_chunks
    def log_prob(self, x: Tensor, t: Time | None = None) -> Tensor:
        """log p_t(x) in nats, `[batch]`, for `x` `[batch, ...]`. Without t it is log p_0(x), the data's own.

        Raises:
            ValueError: if x has another size than the means, t is outside [0, T], or a covariance is singular and there
                is no noise.
        """
        if t is None:
            require_state(x)
            one = x.new_ones(1, 1, 1)
            alpha, sigma2 = one, 0 * one
        else:
            alpha, sigma2 = self._coefficients(x, t)
        self._require_density(sigma2)
        return self._parts(x, alpha, sigma2)[2].logsumexp(-1)

    @in_chunks
    def denoise(self, x: Tensor, t: Time) -> Tensor:
        """E[x_0 | x_t = x], with the shape and the dtype of `x` `[batch, ...]`; t is a scalar or `[batch]`.

        Where sigma = 0 it is x/alpha, also for singular covariances.
        """
        alpha, sigma2 = self._coefficients(x, t)
        offset, variance, log_joint = self._parts(x, alpha, sigma2)
        responsibilities = log_joint.softmax(-1)
        shift = self._mix(alpha * self.variances / variance * offset, log_joint)
        denoised = (responsibilities @ self.means + shift).reshape(x.shape).to(x.dtype)
        along = (-1, *(1,) * (x.ndim - 1))
        return torch.where(sigma2.reshape(along) == 0, x / alpha.reshape(along), denoised)

    @in_chunks
    def posterior_variance(self, x: Tensor, t: Time) -> Tensor:
        """tr Cov[x_0 | x_t = x], `[batch]`. The trace of the Jacobian of D is alpha/sigma^2 times it (Efron 2011)."""
        alpha, sigma2 = self._coefficients(x, t)
        self._require_density(sigma2)
        offset, variance, log_joint = self._parts(x, alpha, sigma2)
        responsibilities = log_joint.softmax(-1)
        shift = alpha * self.variances / variance * offset
        means = self.means + (shift if self.axes is None else torch.einsum("kde,bke->bkd", self.axes, shift))
        apart = (means - (responsibilities.unsqueeze(-1) * means).sum(1, keepdim=True)).square().sum(-1)
        return (responsibilities * ((self.variances * sigma2 / variance).sum(-1) + apart)).sum(-1)

    @in_chunks
    def score(self, x: Tensor, t: Time) -> Tensor:
        """grad log p_t(x), with the shape and the dtype of `x` `[batch, ...]`; t is a scalar or `[batch]`.

        Raises:
            ValueError: as `log_prob`.
        """
        alpha, sigma2 = self._coefficients(x, t)
        self._require_density(sigma2)
        offset, variance, log_joint = self._parts(x, alpha, sigma2)
        return self._mix(-offset / variance, log_joint).reshape(x.shape).to(x.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` exact draws of the data, `[n, ...]`.

        Raises:
            ValueError: if `n` is not a positive integer.
        """
        require_integer("n", n, 1)
        kind = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype, device=self.means.device)
        z = self.variances[kind].sqrt() * z
        if self.axes is not None:
            for k in kind.unique().tolist():  # to gather a matrix for each draw would take n d^2 numbers
                chosen = kind == k
                z[chosen] = z[chosen] @ self.axes[k].mT
        return (self.means[kind] + z).reshape(n, *self.shape)
