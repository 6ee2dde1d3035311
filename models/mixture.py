"""Gaussian mixtures, whose score is known in closed form at every time of every Gaussian process."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from backdrift.models.conditions import Condition
from backdrift.models.measurement import Measurement
from backdrift.models.mixture_posterior import conditional, log_evidence, posterior
from backdrift.sde import SDE, DataMoments, GaussianSDE, Model, Time, as_time
from backdrift.sde.checks import require_integer
from backdrift.sde.tensor_checks import extremes, require_finite, require_state
from backdrift.sde.value_types import require

NO_PROCESS = "sde: this mixture has no process; give it one with `under(sde)`"
"""What is said where a process is needed."""

NUMBERS = 2**22
"""Numbers `[batch, K, d]` that a call has in memory at once, up to a few copies of them: 32 MB each in float64."""

Method = TypeVar("Method", bound=Callable[..., Tensor])


def in_chunks(method: Method) -> Method:
    """Run a method of (x, t) on parts of the batch that have `NUMBERS` numbers each, so that its memory is bounded."""

    @functools.wraps(method)
    def wrapped(self: GaussianMixture, x: Tensor, t: Time | None = None) -> Tensor:
        rows = max(1, NUMBERS // self.means.shape[-2:].numel())
        if not isinstance(x, Tensor) or x.ndim == 0 or len(x) <= rows:
            return method(self, x, t)
        parts = torch.arange(len(x), device=x.device).split(rows)
        one_each = isinstance(t, Tensor) and t.shape == x.shape[:1]
        times = cast(Tensor, t).split(rows) if one_each else [t] * len(parts)
        pairs = zip(parts, times, strict=True)
        return torch.cat([method(self.select(part), x[part], when) for part, when in pairs])

    return cast(Method, wrapped)


class GaussianMixture(Model):
    """The data density p_0 = sum_k w_k N(m_k, C_k), which gives p_t = sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I).

    Score, denoiser and density are exact at any t, so every solver and every estimate can be tested against them. The
    denoiser is

        E[x_0 | x_t] = sum_k r_k (m_k + alpha C_k S_k^-1 (x - alpha m_k)),

    where S_k is the noised covariance and r_k are the responsibilities (Bishop 2006, eq. 2.81 and 9.13). With one
    component the density is normal. Covariances are diagonalised once, so that a call costs K d^2 operations a sample.

    The posterior given a measurement, a class or some of the coordinates is a mixture again, see `given`. Given another
    measurement for each sample, it has other means and weights for each sample, and `select` keeps those of some.

    Args:
        means: m_k, `[K, ...]`. The shape after K is the shape of a sample.
        covariances: C_k, positive semi-definite: a number, the variance of K isotropic covariances; variances
            `[K, d]`; or full matrices `[K, d, d]`, where d is the size of a sample.
        weights: w_k, `[K]`, not negative. They are divided by their sum. All are equal by default.
        sde: the process that the times t belong to. `under` makes a copy for another process.
        classes: the class of each component, `[K]` integers; by default each component is a class of its own.

    Raises:
        ValueError: if shapes do not agree, a number is not finite, a weight is negative, or a covariance is not
            symmetric and positive semi-definite.
    """

    exact = True

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor | float,
        weights: Tensor | None = None,
        sde: GaussianSDE | None = None,
        classes: Tensor | None = None,
    ) -> None:
        means = torch.as_tensor(means)
        if means.ndim < 2 or means.numel() == 0:
            raise ValueError(f"means: expected shape [K, ...], got {list(means.shape)}")
        if not means.is_floating_point():
            means = means.to(torch.get_default_dtype())  # or a covariance of 0.5 would be 0
        require_finite("means", means)
        self.shape = means.shape[1:]
        self.means = means.flatten(1)
        k, d = self.means.shape
        covariances = torch.as_tensor(covariances, dtype=means.dtype, device=means.device)
        require_finite("covariances", covariances)
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
        require_finite("weights", weights)
        if weights.shape != (k,) or bool((weights < 0).any()) or not bool(weights.sum() > 0):
            raise ValueError(f"weights: expected {k} positive numbers, got {weights.tolist()}")
        self.log_weights = (weights / weights.sum()).to(means).log()
        self.classes = torch.arange(k) if classes is None else torch.as_tensor(classes)
        if self.classes.shape != (k,) or self.classes.is_floating_point():
            raise ValueError(f"classes: expected {k} integers, one for each component, got {self.classes.tolist()}")
        require("sde", sde, SDE | None)
        if sde is not None:
            self.sde = sde

    @property
    def data_moments(self) -> DataMoments:  # type: ignore[override]
        """The mean and the variance of each component of the data, shaped like a sample, or `[batch, ...]` with one
        for each."""
        weights = self.log_weights.exp().unsqueeze(-1)
        mean = (weights * self.means).sum(-2)
        within = self.variances if self.axes is None else torch.einsum("kde,ke->kd", self.axes.square(), self.variances)
        variance = (weights * ((self.means - mean.unsqueeze(-2)).square() + within)).sum(-2)
        shape = (*mean.shape[:-1], *self.shape)
        return DataMoments(mean.reshape(shape), variance.reshape(shape))

    @functools.cached_property
    def data_std(self) -> float:
        """Standard deviation of the data, the root of the mean variance of a sample's components."""
        return float(self.data_moments.variance.mean().sqrt())

    @property
    def each(self) -> bool:
        """Whether every sample of a batch has a mixture of its own, as `given` makes them."""
        return self.means.ndim == 3

    def select(self, indices: Tensor) -> GaussianMixture:
        """The mixtures of the samples at `indices` `[n]` of a batch."""
        if not self.each:
            return self
        return self._copy(means=self.means[indices], log_weights=self.log_weights[indices])

    def given(self, condition: Condition | Measurement | Tensor) -> GaussianMixture:
        """p(x_0 | condition), exactly: a mixture again.

        Given a measurement y = A x_0 + noise of covariance R, component k has

            mean m_k + G_k (y - A m_k),    covariance (1 - G_k A) C_k (1 - G_k A)^T + G_k R G_k^T,
            weight in proportion to w_k N(y; A m_k, A C_k A^T + R),    G_k = C_k A^T (A C_k A^T + R)^-1

        (Bishop 2006, eq. 2.113 to 2.117, with the covariance in Joseph's form). Given a class, the weights of all other
        components are 0.

        Args:
            condition: a `Measurement` or a `Label`, for all samples or one for each; a tensor of integers is a `Label`.

        Raises:
            TypeError: if it is none of these.
            ValueError: if its shape is not that of the samples, or no component is of the class.
        """
        return posterior(self, condition)

    def log_evidence(self, measurement: Measurement) -> Tensor:
        """log p(y) in nats, for a measurement y: `[]`, or `[batch]` with one for each sample."""
        return log_evidence(self, measurement)

    def conditional(self, indices: Tensor, values: Tensor) -> GaussianMixture:
        """p(the other components | the components at `indices` have these values), a mixture of fewer dimensions.

        It serves for p(x | y) of a joint density, and for p(a | b) of the columns of a table.

        Args:
            indices: of the known components of the flattened sample, `[m]`.
            values: of these, `[m]`, or `[batch, m]` with others for each sample.

        Raises:
            ValueError: if an index is out of range or occurs twice, or if all components are known.
        """
        return conditional(self, indices, values)

    def under(self, sde: GaussianSDE) -> GaussianMixture:
        """The same density for the times of another process."""
        return self._copy(sde=sde)

    def for_each(self, means: Tensor, log_weights: Tensor) -> GaussianMixture:
        """The same covariances with other means and weights for each sample of a batch.

        Args:
            means: `[batch, K, d]`.
            log_weights: their logarithms, whose exponentials have the sum 1 for each sample, `[batch, K]`.

        Raises:
            ValueError: if a shape does not fit.
        """
        k, d = self.means.shape[-2:]
        if means.shape != (len(means), k, d) or log_weights.shape != (len(means), k):
            raise ValueError(
                f"means: expected [batch, {k}, {d}] and log_weights [batch, {k}], got {list(means.shape)} and "
                f"{list(log_weights.shape)}"
            )
        return self._copy(means=means, log_weights=log_weights)

    def to(self, *args: Any) -> GaussianMixture:  # whatever torch.Tensor.to takes
        """The same density with its tensors on another device, in another dtype, or both; see `torch.Tensor.to`."""
        floats = {k: v for k, v in vars(self).items() if isinstance(v, Tensor) and v.is_floating_point()}
        moved = {name: value.to(*args) for name, value in floats.items()}
        return self._copy(**moved)

    def _copy(self, **changes: object) -> GaussianMixture:
        """A copy with other attributes. It does not diagonalise the covariances again."""
        other = object.__new__(GaussianMixture)
        kept = {name: value for name, value in vars(self).items() if name != "data_std" or changes.keys() <= {"sde"}}
        other.__dict__.update({**kept, **changes})
        return other

    if not TYPE_CHECKING:  # a type checker would take it for leave to ask for any name

        def __getattr__(self, name: str) -> Any:
            """It is called for names that are not there, such as `sde` where none was given."""
            if name == "sde":
                raise AttributeError(NO_PROCESS)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _coefficients(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """alpha and sigma^2, `[batch, 1, 1]`, or `[1, 1, 1]` for a scalar t."""
        if not hasattr(self, "sde"):
            raise ValueError(NO_PROCESS)
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
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.means.shape[-1] or (self.each and len(x) != len(self.means)):
            batch = str(len(self.means)) if self.each else "batch"
            expected = ", ".join([batch, *map(str, self.shape)])
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
        mean = (responsibilities.unsqueeze(-2) @ self.means).squeeze(-2) if self.each else responsibilities @ self.means
        denoised = (mean + shift).reshape(x.shape).to(x.dtype)
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
        """`n` exact draws of the data, `[n, ...]`; or `[n, batch, ...]` where each sample has a mixture of its own.

        Raises:
            ValueError: if `n` is not a positive integer.
        """
        require_integer("n", n, 1)
        kind = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        kind = kind.mT if self.each else kind
        size = (*kind.shape, self.means.shape[-1])
        z = torch.randn(size, generator=generator, dtype=self.means.dtype, device=self.means.device)
        z = self.variances[kind].sqrt() * z
        if self.axes is not None:
            for k in kind.unique().tolist():  # to gather a matrix for each draw would take n d^2 numbers
                chosen = kind == k
                z[chosen] = z[chosen] @ self.axes[k].mT
        means = self.means[torch.arange(kind.shape[1]), kind] if self.each else self.means[kind]
        return (means + z).reshape(*kind.shape, *self.shape)
