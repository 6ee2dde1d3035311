"""Linear processes with matrix drift and diffusion, whose moments are matrix exponentials."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from backdrift.sde.check import CheckReport, Finding
from backdrift.sde.checks import require_positive
from backdrift.sde.gaussian import wide
from backdrift.sde.process import SDE, NoiseType, Time, as_time

Matrix = Tensor | float | Sequence[float] | Sequence[Sequence[float]]


class Schedule(Protocol):
    """How fast time runs: a rate beta(t) > 0 and its integral B(t) from 0, of tensors of any shape.

    `VP` and the other processes with a linear beta are schedules; so is any object with these two.
    """

    def beta(self, t: Tensor) -> Tensor: ...

    def integrated_beta(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ConstantSchedule:
    """beta(t) = rate, B(t) = rate t.

    Raises:
        ValueError: if `rate` is not positive.
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        require_positive(rate=self.rate)

    def beta(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.rate)

    def integrated_beta(self, t: Tensor) -> Tensor:
        return self.rate * t


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """M x along axis 1: `matrix` `[d, m]` or `[batch, d, m]`, x `[batch, m, ...]` -> `[batch, d, ...]`."""
    return (matrix.to(x) @ x.reshape(*x.shape[:2], -1)).reshape(x.shape[0], matrix.shape[-2], *x.shape[2:])


def factor(covariance: Tensor, definite: bool = False) -> Tensor:
    """The lower triangular F >= 0 on its diagonal with F F^T = C, for semi-definite C `[..., d, d]`.

    Cholesky's factor of the correlation matrix, scaled back, so that entries of very different size
    (a position's variance ~ t^3 beside a velocity's ~ t) keep their digits: the method's error is
    that of the scaled matrix (Higham 2002, chapter 10). Singular matrices go by eigenvalues.

    Args:
        covariance: C.
        definite: whether C is known to be positive definite: then nothing waits for the device to tell.
    """
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    correlation = inverse.unsqueeze(-1) * covariance * inverse.unsqueeze(-2)
    root, info = torch.linalg.cholesky_ex(correlation)
    if not definite and bool((info > 0).any()):
        values, axes = torch.linalg.eigh(correlation)
        upper = torch.linalg.qr((axes * values.clamp(min=0).sqrt().unsqueeze(-2)).mT).R
        sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
        root = torch.where((info > 0)[..., None, None], (sign.unsqueeze(-1) * upper).mT, root)
    return scale.unsqueeze(-1) * root


@dataclass(frozen=True)
class MatrixPrior:
    """The normal density N(0, C) along axis 1 of the state, independent along the axes after it.

    Args:
        covariance: C, `[d, d]`, positive definite.
    """

    covariance: Tensor

    @functools.cached_property
    def factor(self) -> Tensor:
        """F, lower triangular, with F F^T = C."""
        return factor(self.covariance)

    def from_noise(self, noise: Tensor) -> Tensor:
        """F eps for standard normal eps `[batch, d, ...]`."""
        return apply(self.factor, noise)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """Draws of the given shape `[batch, d, ...]`; `kwargs` (dtype, device) go to `torch.randn`."""
        return self.from_noise(torch.randn(shape, generator=generator, **kwargs))

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; 0, C) in nats, `[batch]` for `x` `[batch, d, ...]`."""
        f = self.factor.to(x)
        z = torch.linalg.solve_triangular(f, x.reshape(*x.shape[:2], -1), upper=False)
        copies = z.shape[2]
        log_det = f.diagonal().log().sum()
        return -0.5 * z.square().sum((1, 2)) - copies * (log_det + 0.5 * len(f) * math.log(2 * math.pi))


class LinearSDE(SDE):
    """dx = A x beta(t) dt + L sqrt(beta(t)) dw, whose moments are matrix exponentials.

    With tau = B(t) - B(s), the schedule's time from s to t,

        x_t given x_s ~ N(Phi x_s, Sigma),    Phi = e^{A tau},
        Sigma = int_0^tau e^{A r} L L^T e^{A^T r} dr,

    the integral of Van Loan (1978, theorem 1). Both are summed as Taylor series at tau/2^k, where
    tau/2^k |A| is small, and doubled k times, Sigma(2h) = Sigma(h) + Phi(h) Sigma(h) Phi(h)^T. That
    adds only positive matrices: unlike the block exponential, which holds e^{-A tau} too, it neither
    overflows at large tau nor loses the small entries at tiny tau. An eigendecomposition would not
    do: A may be defective, and is, just where damping is critical.

    The matrices act on axis 1 of the state `[batch, d, ...]`; the axes after it are independent
    copies, so an image `[batch, 2, channels, height, width]` can have a velocity in every pixel.

    `GaussianSDE` is the scalar case with the same method names; where that returns a standard
    deviation, this returns a lower triangular matrix F, the covariance being F F^T, so that
    x = mean + F eps along axis 1. Särkkä & Solin (2019), sections 6.1 to 6.3.

    Args:
        A: drift matrix, `[d, d]`; a number for d = 1.
        L: diffusion matrix, `[d, m]`; a number for d = 1.
        schedule: beta and its integral, or a number for a constant beta.
        T: end time.
        eps: time at which solvers stop, T/1000 unless given.
        initial: covariance `[d, d]` of noise that x_0 is given at t = 0, none by default. It counts
            in `marginal`, `bridge` and `prior`; `transition` has the process's own noise alone.

    Raises:
        ValueError: if a matrix has the wrong shape or is not finite, or T is not positive.
    """

    eps: float
    noise_type: NoiseType = "general"
    state_dependent = False

    def __init__(
        self,
        A: Matrix,
        L: Matrix,
        schedule: Schedule | float = 1.0,
        T: float = 1.0,
        eps: float | None = None,
        initial: Matrix | None = None,
    ) -> None:
        require_positive(T=T)
        self.A, self.L = _matrix("A", A), _matrix("L", L)
        d = len(self.A)
        if self.A.shape != (d, d):
            raise ValueError(f"A: expected a square matrix, got shape {list(self.A.shape)}")
        if len(self.L) != d:
            raise ValueError(f"L: expected {d} rows, as A has, got shape {list(self.L.shape)}")
        self.initial = torch.zeros(d, d, dtype=torch.float64) if initial is None else _matrix("initial", initial)
        if self.initial.shape != (d, d) or not torch.equal(self.initial, self.initial.mT):
            raise ValueError(f"initial: expected a symmetric [{d}, {d}] matrix, got {self.initial.tolist()}")
        self.schedule: Schedule = ConstantSchedule(float(schedule)) if isinstance(schedule, (int, float)) else schedule
        self.T = float(T)
        self.eps = 1e-3 * self.T if eps is None else float(eps)

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
        return self.schedule.beta(as_time(t, x)) * apply(self.A, x)

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        """sqrt(beta(t)) L, `[batch, d, m]`, of one copy."""
        rate = self.schedule.beta(as_time(t, x)).reshape(-1, 1, 1)
        return (rate.sqrt() * self.L.to(x)).expand(len(x), -1, -1)

    def noise_shape(self, x: Tensor) -> tuple[int, ...]:
        """`[batch, m, ...]`: each copy has m Brownian motions of its own."""
        return len(x), self.L.shape[1], *x.shape[2:]

    def apply_noise(self, x: Tensor, t: Time, z: Tensor) -> Tensor:
        """sqrt(beta(t)) L z along axis 1."""
        return self.schedule.beta(as_time(t, x)).sqrt() * apply(self.L, z)

    def apply_diffusion(self, x: Tensor, t: Time, v: Tensor) -> Tensor:
        """beta(t) L L^T v."""
        return self.schedule.beta(as_time(t, x)) * apply(self.L @ self.L.mT, v)

    def moments(self, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Phi and Sigma of the step from s to t >= s, `[..., d, d]` in float64 for times of shape `[...]`."""
        s, t = _wide(s), _wide(t)
        return self.moments_after(self.schedule.integrated_beta(t) - self.schedule.integrated_beta(s))

    def moments_after(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Phi and Sigma, `[..., d, d]`, after the schedule has run by `tau` `[...]`."""
        phi_terms, sigma_terms, doublings = self._series
        h = tau.unsqueeze(-1) * 2.0**-doublings
        powers = h ** torch.arange(len(phi_terms), dtype=tau.dtype, device=tau.device)
        phi = torch.tensordot(powers, phi_terms.to(powers), 1)
        sigma = torch.tensordot(h * powers, sigma_terms.to(powers), 1)
        for _ in range(doublings):
            sigma = sigma + phi @ sigma @ phi.mT
            phi = phi @ phi
        return phi, sigma

    @functools.cached_property
    def _series(self) -> tuple[Tensor, Tensor, int]:
        """Taylor coefficients of Phi(h) and Sigma(h)/h, and the doublings that reach B(T) from |A| h <= 1/4."""
        span = float(self.schedule.integrated_beta(torch.tensor(self.T, dtype=torch.float64)))
        size = float(torch.linalg.matrix_norm(self.A, 1)) * span
        doublings = max(0, math.ceil(math.log2(4 * size))) if size > 0 else 0
        phi, sigma = [torch.eye(self.dim, dtype=torch.float64)], [self.L @ self.L.mT]
        for k in range(1, 17):
            phi.append(self.A @ phi[-1] / k)
            sigma.append((self.A @ sigma[-1] + sigma[-1] @ self.A.mT) / (k + 1))
        return torch.stack(phi), torch.stack(sigma), doublings

    def covariance_at(self, t: Time) -> Tensor:
        """Cov(x_t given x_0) = Phi initial Phi^T + Sigma, `[..., d, d]` in float64."""
        phi, sigma = self.moments(0.0, t)
        return phi @ self.initial.to(phi) @ phi.mT + sigma

    def marginal(self, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean Phi x_0 `[batch, d, ...]` and the factor F `[d, d]` or `[batch, d, d]` of x_t given x_0."""
        t = _times(t, x0)
        phi, _ = self.moments(0.0, t)
        return apply(phi, x0), factor(self.covariance_at(t)).to(x0)

    def perturb(self, x0: Tensor, t: Time, noise: Tensor | None = None) -> Tensor:
        """A draw of x_t given x_0: Phi x_0 + F eps, eps ~ N(0, I) unless given."""
        mean, root = self.marginal(x0, t)
        return mean + apply(root, torch.randn_like(x0) if noise is None else noise)

    def transition(self, x_s: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean Phi x_s and the factor of Sigma of x_t given x_s, for s <= t.

        Raises:
            ValueError: if any s > t.
        """
        phi, sigma = self.moments(*_ordered(s, t, x_s))
        return apply(phi, x_s), factor(sigma).to(x_s)

    def bridge(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean and factor of x_s given x_t and x_0, for s <= t, by Bayes' rule. With P = Cov(x_s given
        x_0) and Phi, R the moments from s to t,

            mean = m + K (x_t - Phi m),    m = E[x_s given x_0],    K = P Phi^T (Phi P Phi^T + R)^{-1},
            cov = (I - K Phi) P (I - K Phi)^T + K R K^T,

        Joseph's form of Kalman's update, a sum of positive matrices (Bucy & Joseph 1968).

        Raises:
            ValueError: if any s > t.
        """
        s, t = _ordered(s, t, x_t)
        start, _ = self.moments(0.0, s)
        p = self.covariance_at(s)
        phi, r = self.moments(s, t)
        total = phi @ p @ phi.mT + r
        scale = total.diagonal(dim1=-2, dim2=-1).sqrt()
        inverse = torch.where(scale > 0, 1 / scale, 0.0)
        both = inverse.unsqueeze(-1) * inverse.unsqueeze(-2)
        gain = p @ phi.mT @ (both * torch.linalg.pinv(both * total, hermitian=True))
        kept = torch.eye(self.dim).to(phi) - gain @ phi
        mean = apply(kept @ start, x0) + apply(gain, x_t)
        return mean, factor(kept @ p @ kept.mT + gain @ r @ gain.mT).to(x_t)

    @functools.cached_property
    def prior(self) -> MatrixPrior:
        """N(0, Cov(x_T given x_0)): p_T but for what is left of x_0."""
        return MatrixPrior(self.covariance_at(self.T))

    @functools.cached_property
    def stationary_covariance(self) -> Tensor:
        """C with A C + C A^T + L L^T = 0, `[d, d]`: the process tends to N(0, C).

        Raises:
            ValueError: if an eigenvalue of A has a real part that is not negative.
        """
        from scipy.linalg import solve_continuous_lyapunov  # slow to import, and only here

        growth = float(torch.linalg.eigvals(self.A).real.max())
        if growth >= 0:
            raise ValueError(f"A: there is no stationary density, an eigenvalue has real part {growth:.3g} >= 0")
        c = torch.from_numpy(solve_continuous_lyapunov(self.A.numpy(), -(self.L @ self.L.mT).numpy()))
        return 0.5 * (c + c.mT)

    def check(self, points: int = 17, tolerance: float = 1e-5) -> CheckReport:
        """Compare `marginal` with the moment equations of `drift` and `diffusion`, integrated in float64:

            dPhi/dt = F(t) Phi,    dP/dt = F P + P F^T + G G^T

        (Särkkä & Solin 2019, section 6.1), which finds a schedule whose two functions disagree, or a subclass
        whose drift is not the one its moments belong to. Same report as `sde.check`.
        """
        from scipy.integrate import solve_ivp  # slow to import, and only here

        d, times = self.dim, np.linspace(0, self.T, points)
        unit, one = torch.eye(d, dtype=torch.float64), torch.ones(1, d, dtype=torch.float64)

        def slope(t: float, y: np.ndarray) -> np.ndarray:
            phi, p = torch.from_numpy(y).reshape(2, d, d)
            f, g = self.drift(unit, t).mT, self.diffusion(one, t)[0]
            return torch.stack([f @ phi, f @ p + p @ f.mT + g @ g.mT]).flatten().numpy()

        start = torch.stack([unit, self.initial]).flatten().numpy()
        path = solve_ivp(slope, (0, self.T), start, "LSODA", times, rtol=1e-9, atol=1e-12)
        expected = torch.from_numpy(path.y.T.copy()).reshape(-1, 2, d, d)
        declared = torch.stack(
            [self.moments(0.0, torch.from_numpy(times))[0], self.covariance_at(torch.from_numpy(times))], 1
        )
        findings, faults = [], []
        for k, name in enumerate(("mean (Phi)", "covariance")):
            scale = expected[:, k].abs().amax((-2, -1)).clamp(min=1e-300)
            error = (declared[:, k] - expected[:, k]).abs() / scale[:, None, None]
            at = int(error.argmax())
            values = [float(v[:, k].flatten()[at]) for v in (declared, expected)]
            found = Finding(name, float(times[at // d**2]), values[0], values[1], float(error.max()))
            findings.append(found)
            if not found.error <= tolerance:
                faults.append(
                    f"{name} is at fault: at t = {found.t:.4g} it is {found.declared:.6g} where drift and diffusion "
                    f"ask for {found.expected:.6g}; is schedule.integrated_beta the integral of schedule.beta?"
                )
        return CheckReport(repr(self), findings, faults)


def _matrix(name: str, value: Matrix) -> Tensor:
    matrix = torch.as_tensor(value, dtype=torch.float64).detach()
    if matrix.ndim == 0:
        matrix = matrix.reshape(1, 1)
    if matrix.ndim != 2 or not bool(matrix.isfinite().all()):
        raise ValueError(f"{name}: expected a matrix of finite numbers, got shape {list(matrix.shape)}: {value}")
    return matrix


def _wide(t: Time) -> Tensor:
    """`t` as a tensor in float64: a step may be short beside the time it is at."""
    return wide(t) if isinstance(t, Tensor) else torch.tensor(float(t), dtype=torch.float64)


def _times(t: Time, x: Tensor) -> Tensor:
    """`t` as a 0-d tensor or `[batch]`, in float64, on the device of `x`."""
    t = wide(t.to(x.device)) if isinstance(t, Tensor) else _wide(t)
    if t.ndim > 1 or (t.ndim == 1 and len(t) != len(x)):
        raise ValueError(f"t: expected a scalar or one time per sample ([{len(x)}]), got shape {list(t.shape)}")
    return t


def _ordered(s: Time, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
    s, t = _times(s, x), _times(t, x)
    if not torch.compiler.is_compiling() and bool((s > t).any()):
        raise ValueError(f"s, t: expected s <= t, got s = {s.tolist()}, t = {t.tolist()}")
    return s, t
