"""The probability flow of a Gaussian process in the angle coordinate."""

from __future__ import annotations

import copy
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from backdrift.sde.checks import require_positive
from backdrift.sde.process import wide
from backdrift.solvers.model import Denoises, data_std_of, denoiser_of, select
from backdrift.solvers.quadrature import gauss_legendre
from backdrift.solvers.solver import end_time
from backdrift.solvers.tables.grid import Grid, angle_grid, time_grid

FLOW_CENTRE, FLOW_POWER = 0.5, 0.4
"""The centre, in units of the data's width d, and the power of the flow's own grid. The grid is "angle" with a lower
centre than the samplers', which a network needs.

Measured by `benchmarks/defaults.py flow` with Kutta's method in 16 to 28 steps. On a U-Net trained on digits the error
is 2.6 times as large with a centre of 0.9, and 1.5 to 2.1 times as large with the other powers that were tried. On
mixtures it is 30 to 36% smaller with a power of 0.5. With a centre of 0.4 it is 28 ± 12% smaller on average.
"""

SMOOTH = (0.6, 0.8)
"""The centre, in units of d, and the power of `AngleFlow.rule`.

Measured by `benchmarks/defaults.py divergences` with 16 to 32 divergences. With the angle itself, (1, 1), the error on
mixtures in 64 dimensions is 5 times smaller, but on a U-Net trained on digits it is 1.9 times as large and on mixtures
in 2 dimensions 3.8 times. With (0.6, 0.9) it is 14 ± 5% smaller on average.
"""


class Place(NamedTuple):
    """The coefficients of `AngleFlow.velocity` at one time, in shapes that broadcast against z.

    Attributes:
        u: the time of the flow, `[]` or `[batch]`.
        t: the time of the process.
        scale: alpha R, with x = scale z.
        keep: d^2/R^2, the coefficient of z in dz/du.
        gain: -1/R, the coefficient of D in dz/du.
    """

    u: Tensor
    t: Tensor
    scale: Tensor
    keep: Tensor
    gain: Tensor


class AngleFlow:
    r"""The probability flow of a Gaussian process in the angle coordinate. With s = sigma/alpha and the data's width d,

    .. math:: z = x / (\alpha R), \quad R^2 = s^2 + d^2, \quad \phi = \arctan(s/d), \quad dz/d\phi = -F(z, \phi)

    where F = (D - d^2/R z) R/(s d) is the raw network of a preconditioned denoiser (Karras et al. 2022, eq. 7; the
    angle is that of TrigFlow, Lu & Song 2024). z has unit variance at both ends, and F = 0 for normal data of width d.
    In these coordinates the flow is the same for every Gaussian process.

    Steps are taken in u = log s, which is minus half the log-SNR. In u, features of the data have the same width at all
    scales. Since dphi/du = s d/R^2, the equation becomes dz/du = (d^2 z - R D)/R^2.

    Args:
        model: a model with `sde`, a GaussianSDE, and `denoise(x, t)`. If it has `posterior_variance(x, t)`, `[batch]`,
            the divergence is known in closed form.
        data_std: the width d of the data. By default it is the model's own `data_std`, or 1 without one.
        eps: the time at the data's end. By default it is the process's own `eps`.

    Raises:
        ValueError: if `data_std` is not positive, if `eps` is not in [0, T), or if there is no noise at `eps`.
    """

    def __init__(self, model: Denoises, data_std: float | None = None, eps: float | None = None) -> None:
        self.sde = model.sde
        self._take(model)
        self.data_std = data_std_of(model, data_std)
        self.eps = end_time(self.sde, eps)
        require_positive(data_std=self.data_std)
        self.first, self.last = (-0.5 * float(self.sde.log_snr(t)) for t in (self.eps, float(self.sde.start)))
        if not math.isfinite(self.first):
            raise ValueError(f"eps: expected a time at which sigma is positive, got {self.eps:g}")

    def _take(self, model: Denoises) -> None:
        self.model, self.denoise = model, denoiser_of(model)
        self.posterior_variance = getattr(model, "posterior_variance", None)

    def middle(self, z: Tensor) -> tuple[float, Tensor]:
        u = min(max(math.log(self.data_std), self.first), self.last)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), device="cpu")
        return u, (z + noise.to(z)) / math.sqrt(2)  # at the angle of 45 degrees, half data and half noise

    def select(self, indices: Tensor) -> AngleFlow:
        chosen = select(self.model, indices)
        if chosen is self.model:
            return self
        other = copy.copy(self)
        other._take(chosen)
        return other

    def enter(self, x: Tensor) -> tuple[Tensor, float]:
        scale = self.width(self.eps)
        return x / scale, -math.log(scale)

    def leave(self, z: Tensor) -> tuple[Tensor, float]:
        scale = self.width(float(self.sde.start))
        return z * scale, -math.log(scale)

    def velocity(self, z: Tensor, u: float | Tensor | Place) -> Tensor:
        at = self._place(u, z)
        return torch.addcmul(at.keep * z, at.gain, self.denoise(at.scale * z, at.t))

    def divergence(self, z: Tensor, u: float | Tensor | Place) -> Tensor | None:
        """dim d^2/R^2 - V/s^2 with V = tr Cov[x_0 | x_t], or None if the model has no `posterior_variance`."""
        if self.posterior_variance is None:
            return None
        at = self._place(u, z)
        square, d2 = (2 * at.u).exp(), self.data_std**2
        variance = self.posterior_variance(at.scale * z, at.t)
        known = (z[0].numel() * d2 / (square + d2)).to(z, non_blocking=True)
        return known - variance / square.to(z, non_blocking=True)

    def places(self, u: Tensor, z: Tensor) -> list[Place]:
        t = self.sde.t_from_log_snr(-2 * u).clamp_(self.eps, self.sde.start)
        square = (2 * u).exp_().add_(self.data_std**2)
        root = square.sqrt()
        shape = (*u.shape, *(1,) * (z.ndim - 1)) if u.ndim == 2 else u.shape
        columns = torch.stack([self.sde.alpha(t) * root, self.data_std**2 / square, -1 / root, t])
        scale, keep, gain, times = columns.to(z, non_blocking=True)  # one transfer, which nobody waits for
        return list(map(Place, u, times, *(column.reshape(shape) for column in (scale, keep, gain))))

    def time(self, u: float) -> float:
        return float(self.sde.t_from_log_snr(wide(-2 * u)).clamp(self.eps, self.sde.start))

    def at_time(self, t: float) -> float:
        return -0.5 * float(self.sde.log_snr(t))

    def scale(self, u: float) -> float:
        return self.width(self.time(u))

    def _place(self, u: float | Tensor | Place, z: Tensor) -> Place:
        """The coefficients at the time u, which may be one of `places` already."""
        return u if isinstance(u, Place) else self.places(wide(u).unsqueeze(0), z)[0]

    def gradient(self, z: Tensor, u: float, velocity: Tensor) -> Tensor:
        """The score of z at u, from the velocity there: -z - (R/s)^2 dz/du."""
        return -z - (1 + self.data_std**2 * math.exp(-2 * u)) * velocity

    def nodes(self, grid: Grid | None, steps: int) -> list[float]:
        own = functools.partial(angle_grid, data_std=self.data_std, centre=FLOW_CENTRE, power=FLOW_POWER)
        times = time_grid(own if grid is None else grid, self.sde, steps, self.eps, self.data_std)
        return [self.first, *(-0.5 * self.sde.log_snr(times)).flip(0)[1:-1].tolist(), self.last]

    def rule(self, count: int) -> list[tuple[float, float]]:
        """Gauss-Legendre quadrature in psi = atan((s/c)^p), du = 2/(p sin 2 psi) dpsi, with (c/d, p) = `SMOOTH`."""
        centre, power = self.data_std * SMOOTH[0], SMOOTH[1]
        start, stop = (math.atan((math.exp(u) / centre) ** power) for u in (self.first, self.last))
        psi, weights = gauss_legendre(count, start, stop)
        u = math.log(centre) + psi.tan().log() / power
        return list(zip(u.tolist(), (2 / power * weights / (2 * psi).sin()).tolist(), strict=True))

    def width(self, t: float) -> float:
        """alpha R, the standard deviation of x_t at time t for data of width d."""
        return math.hypot(float(self.sde.alpha(t)) * self.data_std, float(self.sde.sigma(t)))
