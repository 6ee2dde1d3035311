"""UniPC: a predictor and a corrector that share one evaluation a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from backdrift.sde.value_types import OneOf
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.multistep import ramp
from backdrift.solvers.tables.prediction import coordinates
from backdrift.solvers.tables.table import Row, by_step, correction
from backdrift.solvers.tables.table_solver import TableSolver

Variant = Literal["B1", "B2"]


@dataclass(frozen=True, kw_only=True)
class UniPC(TableSolver):
    """UniPC-p: a multistep predictor of order p with a corrector of order p + 1, at one evaluation a step.

    With h = lambda_s - lambda_t, and z = -h for predict="denoised" or z = h for predict="noise", a step is

        x_s = carry x_t - N_s [expm1(z) P_0 + B(z) sum_m rho_m (P_m - P_0)/r_m].

    P_m are the values at earlier points, and in the corrector at the new point too. r_m is (lambda_m - lambda_t)/h. The
    rho_m solve the order conditions sum_m r_m^(n-1) rho_m = b_n. B1 is B(z) = z, and B2 is B(z) = expm1(z). If there is
    only one rho, it is 1/2 as in the paper. This is the only case in which B matters. In all others it cancels, and the
    step is that of `Adams` with a corrector. Zhao et al. (2023).

    The order is p without the corrector and p + 1 with it. The first steps have few earlier values, which limits the
    order to 2 without the corrector and to 3 with it.

    By default the grid is that of Karras et al. (2022), it ends at the process's eps, and the last step is D(x, eps).
    For few steps these are not good choices. With `grid="angle", final="half_step", eps="auto"` samples end 5 to 12
    times nearer to the exact flow after 8 evaluations, and 4 to 6 times after 20 (medians, on the three problems of
    benchmarks/problems.py).

    Args:
        order: p, the number of values that the predictor uses, 1 to 4.
        predict: quantity that is extrapolated, "denoised" or "noise".
        variant: the function B, "B1" or "B2".
        corrector: whether to correct; without a corrector this is UniP.

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if an argument is not one of its choices. The message names it.
    """

    order: Annotated[int, OneOf((1, 2, 3, 4))] = 3
    predict: Literal["denoised", "noise"] = "denoised"
    variant: Variant = "B2"
    corrector: bool = True

    @property
    def claimed_order(self) -> int:
        return min(self.order + self.corrector, 3 if self.corrector else 2)

    def weights(self, points: Points, steps: slice, lags: list[int]) -> Tensor:
        """The weights of the values at the points k - lag in some steps k, `[steps, len(lags)]`.

        The lags of the corrector begin with -1, the end of the step.
        """
        index = torch.arange(len(points) - 1, device="cpu")[steps]
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
        # The newest value is first: the new point if there is one, then the start of the step, then earlier points.
        split = lags.index(0)
        columns = -scale[index + 1, None] * torch.cat([differences[:, :split], base, differences[:, split:]], 1)
        # Tables weigh P = D + slope x. The denoiser is P itself, and the noise is factor P = -(alpha/sigma) P.
        factor = torch.ones_like(points.lam) if self.predict == "denoised" else here.factor
        return columns * factor[index[:, None] - torch.tensor(lags, device="cpu")]

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
