"""UniPC: a predictor and a corrector of any order at one evaluation a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.multistep import ramp
from backdrift.solvers.tables.prediction import coordinates
from backdrift.solvers.tables.table import Row, by_step, correction
from backdrift.solvers.tables.table_solver import TableSolver

Variant = Literal["B1", "B2"]


@dataclass(frozen=True, kw_only=True)
class UniPC(TableSolver):
    """UniPC-p (Zhao et al. 2023). With h = lambda_s - lambda_t, z = -h (denoised) or h (noise):

        x_s = carry x_t - N_s [expm1(z) P_0 + B(z) sum_m rho_m (P_m - P_0)/r_m],

    P_m the values at earlier points (and, in the corrector, at the new one), r_m = (lambda_m - lambda_t)/h, and rho
    from the order conditions sum_m r_m^(n-1) rho_m = b_n. B1: B(z) = z; B2: B(z) = expm1(z). Where one rho is left
    it is 1/2, as theirs, the only place where B matters: elsewhere it cancels, and the step is that
    of `Adams` with a corrector.

    Order p in the predictor and p + 1 in the corrector, hence p + 1 in the limit where the corrector runs at each step.

    Grid and ending are as usual, Karras' down to the process's eps and D(x, eps). For few steps they are not good ones:
    `grid="angle", final="half_step", eps="auto"` end 5 to 12 times nearer to the exact flow after 8 evaluations and
    4 to 6 times after 20 (medians, the three problems of benchmarks/problems.py).

    Args:
        order: p, the number of values that the predictor uses, 1 to 4.
        predict: quantity that is extrapolated, "denoised" or "noise".
        variant: the function B, "B1" or "B2".
        corrector: whether to correct; without a corrector this is UniP.

    Raises:
        ValueError: naming the argument that makes no sense.
    """

    order: int = 3
    predict: Literal["denoised", "noise"] = "denoised"
    variant: Variant = "B2"
    corrector: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("order", self.order, (1, 2, 3, 4))
        require_choice("predict", self.predict, ("denoised", "noise"))
        require_choice("variant", self.variant, get_args(Variant))

    @property
    def claimed_order(self) -> int:
        return min(self.order + self.corrector, 3 if self.corrector else 2)

    def weights(self, points: Points, steps: slice, lags: list[int]) -> Tensor:
        """Weights of the values at the given lags, `[steps, len(lags)]`; the corrector's lags begin with -1."""
        index = torch.arange(len(points) - 1)[steps]
        here = coordinates(points, self.predict)
        lam = points.lam
        h = lam[index + 1] - lam[index]
        z = -h if self.predict == "denoised" else h
        scale = points.alpha if self.predict == "denoised" else points.sigma
        expm1 = torch.expm1(z)
        b_of_z = z if self.variant == "B1" else expm1
        others = [lag for lag in lags if lag]
        r = torch.stack([(lam[index - k] - lam[index]) / h for k in others], 1) if others else h.new_zeros(len(h), 0)
        m = len(others)
        if m == 1:
            rho = torch.full_like(r, 0.5)
        elif m:
            phi, factorial, conditions = expm1 / z - 1, 1.0, []
            for n in range(1, m + 1):
                conditions.append(phi * factorial / b_of_z)
                factorial *= n + 1
                phi = phi / z - 1 / factorial
            powers = torch.stack([r**n for n in range(m)], 1)
            rho = torch.linalg.solve(powers, torch.stack(conditions, 1))
        else:
            rho = r
        differences = b_of_z[:, None] * rho / r
        base = (expm1 - differences.sum(1))[:, None]
        # The newest first: the new point where there is one, then the step's start, then what lies before.
        split = lags.index(0)
        columns = -scale[index + 1, None] * torch.cat([differences[:, :split], base, differences[:, split:]], 1)
        # A value is factor x slope-corrected denoiser P, and the noise is -alpha/sigma P.
        factor = torch.ones_like(points.lam) if self.predict == "denoised" else here.factor
        return columns * factor[index[:, None] - torch.tensor(lags)]

    def rows(self, points: Points) -> Iterator[Row]:
        here = coordinates(points, self.predict)
        predictors = ramp(points, self.order, 0, self.weights)
        correctors = ramp(points, self.order + 1, -1, self.weights)
        carry = here.scale[1:] / here.scale[:-1]
        columns = by_step(points.t[:-1], points.t[1:], carry, here.slope[:-1])
        for k, (at, to, c, slope) in enumerate(columns):
            if k and self.corrector:
                yield correction(at, slope, correctors[k - 1], predictors[k - 1])
                yield Row(to, c, predictors[k])
            else:
                yield Row(to, c, predictors[k], at, slope)
        if self.final == "half_step" and self.corrector and len(points) > 1:
            ((at, slope),) = by_step(points.t[-1:], here.slope[-1:])
            yield correction(at, slope, correctors[-1], predictors[-1])
