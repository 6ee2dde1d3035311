"""The second-order sampler of EDM, with or without churn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch

from backdrift.sde.value_types import NonNegative, Range
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.table import Row, by_step
from backdrift.solvers.tables.table_solver import TableSolver


@dataclass(frozen=True, kw_only=True)
class Heun(TableSolver):
    """Heun's method as in EDM: a deterministic solver of order 2, or a stochastic one with `churn`.

    It solves dx^/ds = (x^ - D)/s, with x^ = x/alpha and s = sigma/alpha as the time. With churn each step first adds
    noise, and then takes one step of Heun's method from the raised noise level s^:

        s^ = (1 + gamma) s,    x^ <- x^ + s_noise sqrt(s^^2 - s^2) z.

    Karras et al. (2022), algorithms 1 and 2. A step costs two evaluations. Without churn the order is 2.

    By default the grid and the last step are those of the paper. For few steps, other choices may be better. With
    `grid="angle", final="half_step", eps="auto"` and 8 to 20 evaluations, samples end 2.5 to 5 times (median) nearer to
    the exact flow on the problems `modes` and `decades` of benchmarks/problems.py, but 1.3 to 2 times farther from it
    on `digits`.

    Args:
        churn: S_churn, how much noise is added on the way; 0 for none. In each step
            gamma = min(churn/steps, sqrt(2) - 1), so that noise raises s by a factor of sqrt(2) at most.
        s_min: lowest s at which noise is added. Below it gamma is 0.
        s_max: highest s at which noise is added. Above it gamma is 0.
        s_noise: factor of the standard deviation of the added noise.

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `churn` is negative.
    """

    churn: NonNegative = 0.0
    s_min: NonNegative = 0.0
    s_max: Annotated[float, Range(least=0, infinite=True)] = math.inf
    s_noise: NonNegative = 1.0
    claimed_order = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.s_max < self.s_min:
            raise ValueError(f"s_max: expected at least s_min = {self.s_min}, got {self.s_max}")

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def rows(self, points: Points) -> Iterable[Row]:
        t, s = points.steps()
        gamma = min(self.churn / max(len(t), 1), math.sqrt(2) - 1)
        churned = (t.ratio >= self.s_min) & (t.ratio <= self.s_max)
        # The noise level may not exceed the one that the process has at T.
        raised = torch.where(churned, t.ratio * (1 + gamma), t.ratio).clamp(max=float(points.ratio[0].detach()))
        hat = t.at_lambda(-raised.log()) if self.churn else t
        added = (hat.ratio.square() - t.ratio.square()).clamp(min=0).sqrt() * self.s_noise
        # In x^: Euler is x^_e = (1 - r) x^ + r D with r = 1 - s'/s, and the trapezoidal rule
        # x^' = x^ - r/2 (x^ - D) - r'/2 (x^_e - D_e) with r' = s/s' - 1. In x all is scaled by alpha.
        r, r_end = 1 - s.ratio / hat.ratio, hat.ratio / s.ratio - 1
        scale = s.alpha / hat.alpha
        for at, to, k, q, carry, weight, carry2, newest, oldest in by_step(
            hat.t,
            s.t,
            hat.alpha / t.alpha,
            hat.alpha * added,
            scale * (1 - r),
            s.alpha * r,
            scale * (1 - 0.5 * r - 0.5 * r_end * (1 - r)),
            s.alpha * 0.5 * r_end,
            s.alpha * 0.5 * r * (1 - r_end),
        ):
            if q:
                yield Row(at, k, (), noise=q, kind="stage")
            yield Row(to, carry, (weight,), at, kind="stage")
            yield Row(to, carry2, (newest, oldest), to, base=1)
