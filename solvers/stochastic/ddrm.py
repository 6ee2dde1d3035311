"""Denoising diffusion restoration: a sampler in the singular vectors of a linear measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Protocol, cast

import torch
from torch import Tensor

from backdrift.sde import SDE, GaussianSDE
from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Range
from backdrift.solvers.model import ModelLike, data_std_of, denoiser_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, end_time, require_gaussian, require_noise
from backdrift.solvers.tables.grid import Grid, time_grid

Share = Annotated[float, Range(least=0, most=1)]


class LinearSight(Protocol):
    """A. Operators of `models` are such."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A between flattened samples and measurements, `[m, d]`."""


class SpectralMeasurement(Protocol):
    """y = A x_0 + noise, such as a `models.Measurement` with one standard deviation."""

    @property
    def operator(self) -> LinearSight: ...

    @property
    def value(self) -> Tensor:
        """y, one for all samples or one for each along a first axis."""

    @property
    def std(self) -> float | Tensor | None:
        """Of the noise."""

    @property
    def each(self) -> bool:
        """Whether there is one y for each sample."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DDRM(Solver):
    r"""Denoising diffusion restoration models (Kawar, Elad, Ermon & Song 2022, eq. 7 and 8).

    With A = U S V^T, xb = V^T x_t/alpha, s = sigma/alpha, yb_i = (U^T y)_i/S_i of standard deviation r_i = std/S_i, and
    D the denoised xb, a step from t to a smaller time draws component i of xb from a normal density:

    .. math::
        \text{not seen:}\quad & N(D + \sqrt{1 - \eta^2} \, \frac{s}{s_t} (xb - D), \; \eta^2 s^2),

        s < r_i:\quad & N(D + \sqrt{1 - \eta^2} \, \frac{s}{r_i} (yb - D), \; \eta^2 s^2),

        s \ge r_i:\quad & N((1 - \eta_b) D + \eta_b \, yb, \; s^2 - \eta_b^2 r_i^2).

    It starts at N(yb, s_T^2 - r_i^2) where a component is seen with r_i < s_T. It ends with a denoiser. The model is
    that of p(x_0), without a guide.

    It assumes that D knows y through xb alone. That is right for components without noise that say nothing about each
    other. It is wrong, at any number of steps, where noise is present: below r_i a component is not fixed by y any
    more, and its variance is not that of the posterior. eta > 0 shrinks the variance of components that are not seen,
    as the denoiser is applied again and again.

    Cost: steps + 1 evaluations, no product with the Jacobian, and one singular value decomposition of A, d^2 m
    operations.

    Args:
        measurement: y, A and one standard deviation of independent noise; 0 for exact values.
        steps: number of steps.
        grid: the times, see `solvers.tables.grid`.
        eta: the share of fresh noise.
        eta_b: the share of y in components that are seen well.
        eps: the last time before the end; the process's own by default.

    Raises:
        ValueError: if an argument is out of range, or the noise has other than one standard deviation.
    """

    stochastic = True

    measurement: SpectralMeasurement
    steps: Annotated[int, Range(least=1, most=100_000)] = 20
    grid: Grid = "karras"
    eta: Share = 0.85
    eta_b: Share = 1.0
    eps: Annotated[float, Range(least=0)] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not hasattr(self.measurement, "operator") or not hasattr(self.measurement, "std"):
            got = type(self.measurement).__name__
            raise ValueError(f"measurement: expected a linear one with normal noise, such as a Measurement, got {got}")
        std = self.measurement.std
        if std is None or torch.as_tensor(std).ndim:
            raise ValueError("measurement: expected one standard deviation of the noise (std), as DDRM has no other")

    @property
    def nfe(self) -> int:
        """The number of evaluations of the denoiser per sample."""
        return self.steps + 1

    def require_process(self, sde: SDE) -> None:
        require_gaussian(self, sde)

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """Solve from the state `x` at T to the data.

        Raises:
            ValueError: if no `noise` is given, or y is not for samples shaped like those of x, or for as many.
        """
        self.require_process(model.sde)
        sde, denoise, noise = cast(GaussianSDE, model.sde), denoiser_of(model), require_noise(self, noise)
        times = time_grid(self.grid, sde, self.steps, end_time(sde, self.eps), data_std_of(model)).to(x)
        axes, target, deviation = self._spectrum(x)

        def turned(z: Tensor) -> Tensor:
            return z.flatten(1) @ axes

        def state(at: Tensor, t: Tensor) -> Tensor:
            return sde.alpha(t) * (at @ axes.mT).reshape(x.shape)

        level = float(sde.sigma(times[0]) / sde.alpha(times[0]))
        at = turned(x) / sde.alpha(times[0])
        seen = deviation < level
        spread = (level**2 - deviation.square()).clamp(min=0).sqrt()
        at = torch.where(seen, target + spread * turned(noise()), at)
        for t, s in pairwise(times):
            before, after = (float(sde.sigma(time) / sde.alpha(time)) for time in (t, s))
            denoised = turned(denoise(state(at, t), t))
            at = self._step(at, denoised, target, deviation, before, after) + self._kick(
                turned(noise()), deviation, after
            )
            if on_step is not None:
                at = turned(on_step(state(at, s), s)) / sde.alpha(s)
        ended = turned(denoise(state(at, times[-1]), times[-1]))
        ended = torch.where(deviation == 0, (1 - self.eta_b) * ended + self.eta_b * target, ended)
        out = (ended @ axes.mT).reshape(x.shape)
        return out if on_step is None else on_step(out, torch.zeros_like(times[-1]))

    def _spectrum(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """V `[d, d]`, yb `[batch or 1, d]` and r `[d]`, which is inf where nothing is seen."""
        if tuple(x.shape[1:]) != tuple(self.measurement.operator.shape):
            expected, other = list(x.shape[1:]), list(self.measurement.operator.shape)
            raise ValueError(f"measurement: expected an operator on samples {expected}, got one on {other}")
        if self.measurement.each and len(self.measurement.value) not in (1, len(x)):
            got = len(self.measurement.value)
            raise ValueError(f"measurement: expected one value, or one for each of {len(x)} samples, got {got}")
        matrix = self.measurement.operator.matrix(torch.float64).cpu()
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=True)
        d = matrix.shape[1]
        rank = int((sizes > sizes[0] * 1e-10 * max(matrix.shape)).sum())
        y = self.measurement.value.double().cpu().reshape(-1 if self.measurement.each else 1, len(matrix))
        target, deviation = y.new_zeros(len(y), d), y.new_full((d,), math.inf)
        target[:, :rank] = (y @ left)[:, :rank] / sizes[:rank]
        deviation[:rank] = float(torch.as_tensor(self.measurement.std)) / sizes[:rank]
        return right.mT.to(x), target.to(x), deviation.to(x)

    def _step(
        self, at: Tensor, denoised: Tensor, target: Tensor, deviation: Tensor, before: float, after: float
    ) -> Tensor:
        """The means of the three cases."""
        kept = math.sqrt(1 - self.eta**2) * after
        unseen = denoised + kept / before * (at - denoised)
        weak = denoised + kept / deviation.clamp(min=1e-30) * (target - denoised)
        strong = (1 - self.eta_b) * denoised + self.eta_b * target
        return torch.where(deviation.isinf(), unseen, torch.where(deviation > after, weak, strong))

    def _kick(self, z: Tensor, deviation: Tensor, after: float) -> Tensor:
        """The noise of the three cases."""
        strong = (after**2 - (self.eta_b * deviation).square()).clamp(min=0).sqrt()
        return torch.where(deviation > after, torch.full_like(deviation, self.eta * after), strong) * z
