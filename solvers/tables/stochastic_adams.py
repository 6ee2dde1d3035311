"""Multistep solvers of the reverse SDE, which treat its linear part and its noise exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from backdrift.sde.value_types import NonNegative, OneOf
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.multistep import Clock, clock_of, integrate, ramp, require_history
from backdrift.solvers.tables.table import Row, by_step, correction
from backdrift.solvers.tables.table_solver import TableSolver

Scale = Literal["power", "er"]


@dataclass(frozen=True, kw_only=True)
class StochasticAdams(TableSolver):
    """Exponential multistep methods for the reverse SDE. Take it for stochastic sampling with few steps.

    It approximates only the denoiser. The linear part of the SDE and its noise are treated exactly. In x^ = x/alpha and
    s = sigma/alpha a step is

        x^_s = (phi_s/phi_t) x^_t + integral of (phi_s/phi) dlog(phi) D + sqrt(s_s^2 - s_t^2 (phi_s/phi_t)^2) z.

    The integral goes from s_s to s_t, and D is replaced by the polynomial through its last `order` values. The function
    phi(s) sets how much noise is exchanged during the solve:

    - scale="power" is phi = s^(1 + lambda^2), the reverse SDE of stochasticity lambda. lambda = 0 is the probability
      flow, and lambda = 1 is Anderson's reverse SDE.
    - scale="er" is phi = s (exp(s^0.3) + 10), that of ER-SDE-Solver (Cui et al. 2023).

    With lambda = 1 and order 1, 2 or 3 this is SDE-DPM-Solver++ (Lu et al. 2022b); for 2M and 3M the weights are exact.
    With another lambda it is the predictor of SA-Solver (Xue et al. 2023).

    A step costs one evaluation. It is exact if the denoiser is constant. It has weak order 1 with `order` = 1, and weak
    order 2 with a higher one.

    Args:
        order: number of values of the denoiser that a step uses, 1, 2 or 3.
        stochasticity: lambda >= 0 of scale="power"; 0 is the probability flow, 1 is Anderson's reverse SDE.
        scale: the function phi, "power" or "er".
        clock: the variable of the polynomials, "log_snr", "sigma" or "time".

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if an argument is not one of its choices, if `stochasticity` is negative, or if `order` is 3 with a
            single step. The message names the argument.
    """

    order: Annotated[int, OneOf((1, 2, 3))] = 2
    stochasticity: NonNegative = 1.0
    scale: Scale = "power"
    clock: Annotated[Clock, OneOf(("log_snr", "sigma", "time"))] = "log_snr"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_history(self.order, self.steps)

    @property
    def stochastic(self) -> bool:
        return self.scale == "er" or self.stochasticity > 0

    @property
    def claimed_order(self) -> int:
        return min(self.order, 2)

    def log_scale(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """log(phi) and -dlog(phi)/dlambda as functions of lambda = -log(s)."""
        if self.scale == "power":
            power = 1 + self.stochasticity**2
            return -power * lam, torch.full_like(lam, power)
        root = torch.exp(-0.3 * lam)
        # log(exp(r) + 10) and its slope, without overflow for large r = s^0.3
        grown = torch.logaddexp(root, torch.full_like(root, 10.0).log())
        return grown - lam, 1 + 0.3 * root * torch.exp(root - grown)

    def weights(self, points: Points, steps: slice, lags: list[int]) -> Tensor:
        """The weights of the denoisers at the points k - lag in some steps k, `[steps, len(lags)]`."""
        end = self.log_scale(points.lam)[0][1:][steps, None]
        gain = points.alpha[1:][steps, None]

        def density(inside: Points) -> Tensor:
            log_phi, slope = self.log_scale(inside.lam)
            return gain * torch.exp(end - log_phi) * slope

        return integrate(points, steps, lags, density, lambda p: clock_of(p, self.clock, 1.0))

    def transport(self, points: Points) -> tuple[Tensor, Tensor]:
        """The coefficients of x_t and of z in every step."""
        t, s = points.steps()
        log_kept = self.log_scale(s.lam)[0] - self.log_scale(t.lam)[0]
        # s_s^2 - s_t^2 kept^2 = s_s^2 (1 - exp(2 log_kept + 2 (lambda_s - lambda_t)))
        noise = s.sigma * (-torch.expm1(2 * (log_kept + s.lam - t.lam))).clamp(min=0).sqrt()
        return s.alpha / t.alpha * log_kept.exp(), noise

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        columns = by_step(t.t, s.t, *self.transport(points))
        for w, (at, to, carry, q) in zip(ramp(points, self.order, 0, self.weights), columns, strict=True):
            yield Row(to, carry, w, at, noise=q if self.stochastic else 0.0)


@dataclass(frozen=True, kw_only=True)
class SASolver(StochasticAdams):
    """SA-Solver: `StochasticAdams` with a corrector.

    It predicts x_s and evaluates the denoiser there. Then it takes the step again with the same noise and with the new
    value as one more node. The next step uses the same evaluation, so a step costs one. Xue et al. (2023).

    It has weak order 1 with a corrector of order 1, and weak order 2 with a higher one, even if the predictor has
    order 1.

    Args:
        corrector_order: number of values of the denoiser that the corrector uses, 1 to 3, the new one among them.

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: as for `StochasticAdams`, and if `corrector_order` is not one of 1, 2 and 3.
    """

    corrector_order: Annotated[int, OneOf((1, 2, 3))] = 2

    @property
    def claimed_order(self) -> int:
        return min(self.corrector_order, 2)

    def rows(self, points: Points) -> Iterator[Row]:
        predictions = list(super().rows(points))
        yield from predictions[:1]
        corrections = ramp(points, self.corrector_order, -1, self.weights)
        for k, row in enumerate(predictions[1:], start=1):
            yield correction(row.at, row.slope, corrections[k - 1], predictions[k - 1].weights)
            yield row._replace(at=None)
