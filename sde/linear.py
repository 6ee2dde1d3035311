"""Linear processes with matrix drift and diffusion, whose moments are matrix exponentials."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.sde.arguments import checked
from backdrift.sde.check_report import CheckReport
from backdrift.sde.checks import is_number, require_number
from backdrift.sde.linear_check import check_linear
from backdrift.sde.matrix import apply, factor
from backdrift.sde.prior import DataMoments, MatrixPrior
from backdrift.sde.process import SDE, NoiseType, Time, as_time, wide
from backdrift.sde.schedule import ConstantSchedule, Schedule
from backdrift.sde.tensor_checks import extremes, require_shape, require_state, require_times
from backdrift.sde.value_types import NonNegative, Positive

Matrix = Tensor | float | Sequence[float] | Sequence[Sequence[float]]
"""A matrix `[d, m]`, or a number for d = m = 1."""


class LinearSDE(SDE):
    """dx = A x beta(t) dt + L sqrt(beta(t)) dw, whose moments are matrix exponentials.

    With tau = B(t) - B(s), the schedule's time from s to t,

        x_t given x_s ~ N(Phi x_s, Sigma),    Phi = e^{A tau},
        Sigma = int_0^tau e^{A r} L L^T e^{A^T r} dr,

    the integral of Van Loan (1978, theorem 1). Both are summed as Taylor series at h = tau/2^k, where h |A| is small,
    and then doubled k times by Sigma(2h) = Sigma(h) + Phi(h) Sigma(h) Phi(h)^T. The doubling adds positive matrices
    only, so it does not overflow at large tau and does not lose small entries at tiny tau. Van Loan's block
    exponential does both, because it also holds e^{-A tau}. An eigendecomposition is no alternative, because A may be
    defective, and it is defective exactly where damping is critical.

    The matrices act on axis 1 of the state `[batch, d, ...]`. The entries along the axes after it are independent
    copies, so that an image `[batch, 2, channels, height, width]` can have a velocity in every pixel.

    `GaussianSDE` is the scalar case, with the same method names. Where it returns a standard deviation, a `LinearSDE`
    returns a lower triangular matrix F. The covariance is F F^T, and x = mean + F eps along axis 1. Särkkä & Solin
    (2019), sections 6.1 to 6.3.

    Args:
        A: drift matrix, `[d, d]`; a number for d = 1.
        L: diffusion matrix, `[d, m]`; a number for d = 1.
        schedule: beta and its integral, or a number for a constant beta.
        T: end time.
        eps: time at which solvers stop, T/1000 by default.
        initial: covariance `[d, d]` of noise that is added to x_0 at t = 0; there is none by default. `marginal`,
            `bridge` and `prior` include it. `transition` has the noise of the process alone.

    Raises:
        ValueError: if a matrix has the wrong shape or is not finite, `schedule` is no schedule, T is not positive, or
            eps is not in [0, T).
    """

    eps: float
    noise_type: NoiseType = "general"
    state_dependent = False

    @checked
    def __init__(
        self,
        A: Matrix,
        L: Matrix,
        schedule: Schedule | Positive = 1.0,
        T: Positive = 1.0,
        eps: NonNegative | None = None,
        initial: Matrix | None = None,
    ) -> None:
        self.A, self.L = _matrix("A", A), _matrix("L", L)
        d = len(self.A)
        if self.A.shape != (d, d):
            raise ValueError(f"A: expected a square matrix, got shape {list(self.A.shape)}")
        if len(self.L) != d:
            raise ValueError(f"L: expected {d} rows, as A has, got shape {list(self.L.shape)}")
        self.initial = (
            torch.zeros(d, d, dtype=torch.float64, device="cpu") if initial is None else _matrix("initial", initial)
        )
        if self.initial.shape != (d, d) or not torch.equal(self.initial, self.initial.mT):
            raise ValueError(f"initial: expected a symmetric [{d}, {d}] matrix, got {self.initial.tolist()}")
        self.schedule = _schedule(schedule)
        self.T = float(T)
        self.eps = 1e-3 * self.T if eps is None else float(eps)
        require_number("eps", self.eps, least=0, below=self.T)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(A={self.A.tolist()}, L={self.L.tolist()}, schedule={self.schedule}, T={self.T:g})"
        )

    @property
    def dim(self) -> int:
        """d, the length of axis 1 of the state."""
        return len(self.A)

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """beta(t) A x."""
        return self.schedule.beta(as_time(t, x, self.T)) * apply(self.A, x)

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        """sqrt(beta(t)) L, `[batch, d, m]`, which is the same for every copy."""
        rate = self.schedule.beta(as_time(t, x, self.T)).reshape(-1, 1, 1)
        return (rate.sqrt() * self.L.to(x)).expand(len(x), -1, -1)

    def noise_shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape `[batch, m, ...]` of the Brownian motions: each copy has m of its own."""
        return len(x), self.L.shape[1], *x.shape[2:]

    def apply_noise(self, x: Tensor, t: Time, z: Tensor) -> Tensor:
        """sqrt(beta(t)) L z along axis 1."""
        return self.schedule.beta(as_time(t, x, self.T)).sqrt() * apply(self.L, z)

    def apply_diffusion(self, x: Tensor, t: Time, v: Tensor) -> Tensor:
        """beta(t) L L^T v."""
        return self.schedule.beta(as_time(t, x, self.T)) * apply(self.L @ self.L.mT, v)

    def moments(self, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Phi and Sigma of the step from s to t >= s, `[..., d, d]` in float64 for times of shape `[...]`.

        Raises:
            ValueError: if a time lies outside [0, T], or any s > t.
        """
        require_times(s, self.T, "s")
        require_times(t, self.T)
        s, t = wide(s), wide(t)
        _require_order(s, t)
        return self.moments_after(self.schedule.integrated_beta(t) - self.schedule.integrated_beta(s))

    def moments_after(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Phi and Sigma, `[..., d, d]`, after the schedule has advanced by `tau` `[...]`."""
        phi_terms, sigma_terms, doublings = self._series
        h = tau.unsqueeze(-1) * 2.0**-doublings
        powers = h ** torch.arange(len(phi_terms), dtype=tau.dtype, device=tau.device)
        phi = torch.tensordot(powers, phi_terms.to(powers, non_blocking=True), 1)
        sigma = torch.tensordot(h * powers, sigma_terms.to(powers, non_blocking=True), 1)
        for _ in range(doublings):
            sigma = sigma + phi @ sigma @ phi.mT
            phi = phi @ phi
        return phi, sigma

    @functools.cached_property
    def _series(self) -> tuple[Tensor, Tensor, int]:
        """Taylor coefficients of Phi(h) and of Sigma(h)/h, and the number of doublings.

        B(T) divided by 2 that many times is an h with |A| h <= 1/4.
        """
        span = float(self.schedule.integrated_beta(wide(self.T)))
        size = float(torch.linalg.matrix_norm(self.A, 1)) * span
        doublings = max(0, math.ceil(math.log2(4 * size))) if size > 0 else 0
        phi, sigma = [torch.eye(self.dim, dtype=torch.float64, device="cpu")], [self.L @ self.L.mT]
        for k in range(1, 17):
            phi.append(self.A @ phi[-1] / k)
            sigma.append((self.A @ sigma[-1] + sigma[-1] @ self.A.mT) / (k + 1))
        return torch.stack(phi), torch.stack(sigma), doublings

    def covariance_at(self, t: Time) -> Tensor:
        """Cov(x_t given x_0) = Phi initial Phi^T + Sigma, `[..., d, d]` in float64."""
        phi, sigma = self.moments(0.0, t)
        return phi @ self.initial.to(phi, non_blocking=True) @ phi.mT + sigma

    def marginal(self, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean Phi x_0 `[batch, d, ...]` and the factor F `[d, d]` or `[batch, d, d]` of x_t given x_0."""
        require_state(x0, "x0")
        t = _times(t, x0)
        phi, _ = self.moments(0.0, t)
        return apply(phi, x0), factor(self.covariance_at(t)).to(x0)

    def perturb(self, x0: Tensor, t: Time, noise: Tensor | None = None) -> Tensor:
        """A draw of x_t given x_0, Phi x_0 + F eps, where `noise` is eps, drawn from N(0, I) by default.

        Raises:
            ValueError: if `noise` does not have the shape of x_0.
        """
        mean, root = self.marginal(x0, t)
        if noise is None:
            noise = torch.randn_like(x0)
        require_shape("noise", noise, x0)
        return mean + apply(root, noise)

    def transition(self, x_s: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean Phi x_s and the factor of Sigma of x_t given x_s, for s <= t.

        Raises:
            ValueError: if any s > t.
        """
        phi, sigma = self.moments(*_ordered(s, t, x_s))
        return apply(phi, x_s), factor(sigma).to(x_s)

    def bridge(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean and factor of x_s given x_t and x_0, for s <= t, by Bayes' rule:

            mean = m + K (x_t - Phi m),    m = E[x_s given x_0],    K = P Phi^T (Phi P Phi^T + R)^{-1},
            cov = (I - K Phi) P (I - K Phi)^T + K R K^T,

        with P = Cov(x_s given x_0), and Phi and R the moments from s to t. The covariance is Joseph's form of Kalman's
        update, a sum of positive matrices (Bucy & Joseph 1968).

        Raises:
            ValueError: if any s > t.
        """
        require_shape("x0", x0, x_t)
        s, t = _ordered(s, t, x_t)
        start, _ = self.moments(0.0, s)
        p = self.covariance_at(s)
        phi, r = self.moments(s, t)
        total = phi @ p @ phi.mT + r
        scale = total.diagonal(dim1=-2, dim2=-1).sqrt()
        inverse = torch.where(scale > 0, 1 / scale, 0.0)
        both = inverse.unsqueeze(-1) * inverse.unsqueeze(-2)
        gain = p @ phi.mT @ (both * torch.linalg.pinv(both * total, hermitian=True))
        kept = torch.eye(self.dim, dtype=phi.dtype, device=phi.device) - gain @ phi
        mean = apply(kept @ start, x0) + apply(gain, x_t)
        return mean, factor(kept @ p @ kept.mT + gain @ r @ gain.mT).to(x_t)

    @functools.cached_property
    def prior(self) -> MatrixPrior:
        """N(0, Cov(x_T given x_0)), which is p_T without what is left of x_0."""
        return MatrixPrior(self.covariance_at(self.T))

    def prior_for(self, moments: DataMoments | None) -> MatrixPrior:
        """N(Phi m, Phi V Phi^T + Cov(x_T given x_0)) for data with the mean m and the variances V.

        V is averaged over the copies, which share one covariance. Without moments it is `prior`.

        Raises:
            ValueError: if the moments are not those of a state `[d, ...]`.
        """
        if moments is None:
            return self.prior
        phi, _ = self.moments(0.0, self.T)
        mean, variance = (
            self.lift(torch.as_tensor(value, dtype=torch.float64, device="cpu").unsqueeze(0)) for value in moments
        )
        if mean.shape[1:2] != (self.dim,) or variance.shape[1:2] != (self.dim,):
            raise ValueError(f"moments: expected those of a state [{self.dim}, ...], got {list(mean.shape[1:])}")
        spread = variance.flatten(2).mean(2)[0] if variance.ndim > 2 else variance[0]
        covariance = self.covariance_at(self.T) + phi @ spread.to(phi).diag() @ phi.mT
        return MatrixPrior(covariance, apply(phi, mean)[0])

    @functools.cached_property
    def stationary_covariance(self) -> Tensor:
        """C with A C + C A^T + L L^T = 0, `[d, d]`. The process tends to N(0, C).

        Raises:
            ValueError: if an eigenvalue of A has a real part that is not negative.
        """
        from scipy.linalg import solve_continuous_lyapunov  # slow to import, and only here

        growth = float(torch.linalg.eigvals(self.A).real.max())
        if growth >= 0:
            raise ValueError(
                f"A: there is no stationary density, because an eigenvalue has real part {growth:.3g} >= 0"
            )
        c = torch.from_numpy(solve_continuous_lyapunov(self.A.numpy(), -(self.L @ self.L.mT).numpy()))
        return 0.5 * (c + c.mT)

    def check(self, points: int = 17, tolerance: float = 1e-5) -> CheckReport:
        """Compare `marginal` with the moment equations of `drift` and `diffusion`, as `sde.check` does.

        Args:
            points: how many times are compared, evenly from 0 to T.
            tolerance: relative error above which a comparison is a fault.
        """
        return check_linear(self, points, tolerance)


def _schedule(value: Schedule | float) -> Schedule:
    """`value`, where a number becomes a constant schedule."""
    if is_number(value):
        return ConstantSchedule(float(value))
    if not (hasattr(value, "beta") and hasattr(value, "integrated_beta")):
        raise ValueError(f"schedule: expected a positive number, or beta(t) and integrated_beta(t), got {value!r}")
    return value


def _matrix(name: str, value: Matrix) -> Tensor:
    """`value` as a float64 tensor `[d, m]`, after checking that it is a matrix of finite numbers."""
    matrix = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    if matrix.ndim == 0:
        matrix = matrix.reshape(1, 1)
    if matrix.ndim != 2 or not bool(matrix.isfinite().all()):
        raise ValueError(f"{name}: expected a matrix of finite numbers, got shape {list(matrix.shape)}: {value}")
    return matrix


def _times(t: Time, x: Tensor) -> Tensor:
    """`t` in float64, a 0-d tensor or `[batch]`, on the device of `x` where it is a tensor."""
    t = wide(t.to(x.device, non_blocking=True) if isinstance(t, Tensor) else t)
    if t.ndim > 1 or (t.ndim == 1 and len(t) != len(x)):
        raise ValueError(f"t: expected a scalar or one time per sample ([{len(x)}]), got shape {list(t.shape)}")
    return t


def _ordered(s: Time, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
    """s and t as `_times` gives them, after checking that s <= t."""
    require_state(x)
    s, t = _times(s, x), _times(t, x)
    _require_order(s, t)
    return s, t


def _require_order(s: Tensor, t: Tensor) -> None:
    """Raise unless s <= t everywhere, as far as that can be seen without waiting for a device."""
    found = extremes(t - s)
    if found is not None and found[0] < 0:
        raise ValueError(f"s, t: expected s <= t, got s = {s.tolist()}, t = {t.tolist()}")
