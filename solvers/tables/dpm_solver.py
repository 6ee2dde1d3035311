"""DPM-Solver-2 and -3, DPM-Solver++(2S and 2M), and an exponential Runge-Kutta method of order 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.table import Row, by_step
from backdrift.solvers.tables.table_solver import TableSolver


def phi_1(z: Tensor) -> Tensor:
    """(e^z - 1)/z."""
    return torch.expm1(z) / z


def phi_2(z: Tensor) -> Tensor:
    """(e^z - 1 - z)/z^2, by its series where the difference would lose digits."""
    small = z.abs() < 1e-2
    safe = torch.where(small, torch.ones_like(z), z)
    series = 1 / 2 + z / 6 + z.square() / 24 + z**3 / 120 + z**4 / 720
    return torch.where(small, series, (torch.expm1(safe) - safe) / safe.square())


@dataclass(frozen=True, kw_only=True)
class DPMSolver(TableSolver):
    """DPM-Solver-2 and -3 in noise prediction, Lu et al. (2022a), algorithms 1 and 2 (r = 1/2; r1 = 1/3, r2 = 2/3).

    With h = lambda_s - lambda_t, u the point a share r of the way in lambda:

        2:  x_u = alpha_u/alpha_t x - sigma_u (e^(rh) - 1) eps_t,   x_s = alpha_s/alpha_t x - sigma_s (e^h - 1) eps_u.

    Args:
        order: 2 or 3; a step takes as many evaluations.

    Raises:
        ValueError: if `order` is neither.
    """

    order: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("order", self.order, (2, 3))

    @property
    def claimed_order(self) -> int:
        return self.order

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        h = s.lam - t.lam
        if self.order == 2:
            u = t.between(s, 0.5)
            stages, weights = [u, s], [[torch.expm1(0.5 * h)], [torch.expm1(h), 0 * h]]
        else:
            u, v = t.between(s, 1 / 3), t.between(s, 2 / 3)
            second = 2 * (phi_1(2 / 3 * h) - 1) * torch.ones_like(h)  # r2/r1 (phi_1(r2 h) - 1)
            third = 1.5 * (phi_1(h) - 1)  # (phi_1(h) - 1)/r2
            stages = [u, v, s]
            weights = [
                [torch.expm1(h / 3)],
                [second, torch.expm1(2 / 3 * h) - second],
                [third, 0 * h, torch.expm1(h) - third],
            ]
        # The noise is -(alpha/sigma) P with P = D - x/alpha.
        nodes = [t, *stages[:-1]]
        return stage_rows(
            nodes,
            stages,
            [stage.alpha / t.alpha for stage in stages],
            [
                [stage.sigma * w * nodes[i - j].alpha / nodes[i - j].sigma for j, w in enumerate(row)]
                for i, (stage, row) in enumerate(zip(stages, weights, strict=True))
            ],
            [-1 / node.alpha for node in nodes],
        )


@dataclass(frozen=True, kw_only=True)
class DPMSolverPP2S(TableSolver):
    """DPM-Solver++(2S), Lu et al. (2022b), algorithm 1 with r = 1/2:

        x_u = sigma_u/sigma_t x - alpha_u (e^(-h/2) - 1) D_t,   x_s = sigma_s/sigma_t x - alpha_s (e^(-h) - 1) D_u.

    Order 2, two evaluations a step.
    """

    claimed_order = 2

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        u, h = t.between(s, 0.5), s.lam - t.lam
        weights = [[-u.alpha * torch.expm1(-0.5 * h)], [-s.alpha * torch.expm1(-h), 0 * h]]
        return stage_rows([t, u], [u, s], [u.sigma / t.sigma, s.sigma / t.sigma], weights, [0 * h, 0 * h])


@dataclass(frozen=True, kw_only=True)
class ExponentialRK3(TableSolver):
    """The third-order exponential Runge-Kutta method of Hochbruck & Ostermann (2005, c2 = 1/2, c3 = 2/3) on

        dx^/dlambda = -x^ + D,    x^ = x/alpha:

    b1 = phi_1 - 3/2 phi_2, b3 = 3/2 phi_2, a32 = 4/(9 c2) phi_2(-2h/3), all of -h. Order 3, also where the
    linear part is stiff; three evaluations a step.
    """

    claimed_order = 3

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        u, v, h = t.between(s, 1 / 2), t.between(s, 2 / 3), s.lam - t.lam
        a32 = 8 / 9 * phi_2(-2 / 3 * h)
        b3 = 1.5 * phi_2(-h)
        weights = [
            [0.5 * phi_1(-0.5 * h)],
            [a32, 2 / 3 * phi_1(-2 / 3 * h) - a32],
            [b3, 0 * h, phi_1(-h) - b3],
        ]
        stages = [u, v, s]
        scaled = [[stage.alpha * h * w for w in row] for stage, row in zip(stages, weights, strict=True)]
        return stage_rows([t, u, v], stages, [stage.sigma / t.sigma for stage in stages], scaled, [0 * h] * 3)


def stage_rows(
    nodes: list[Points], stages: list[Points], carry: list[Tensor], weights: list[list[Tensor]], slopes: list[Tensor]
) -> Iterator[Row]:
    """Rows of a single-step method: stage i starts from the step's beginning and uses every value of the step so far.

    Args:
        nodes: where each evaluation is made.
        stages: where each stage leads, the last one to the end of the step.
        carry, slopes: arrays over steps, one for each stage.
        weights: for each stage one array for each value, the newest first.
    """
    columns = []
    for node, stage, c, slope, w in zip(nodes, stages, carry, slopes, weights, strict=True):
        columns += [node.t, stage.t, c, slope, *w]
    for step in by_step(*columns):
        entries = iter(step)
        for i in range(len(stages)):
            at, to, c, slope = (next(entries) for _ in range(4))
            values = tuple(next(entries) for _ in range(i + 1))
            yield Row(to, c, values, at, slope, base=i, kind="step" if i == len(stages) - 1 else "stage")


@dataclass(frozen=True, kw_only=True)
class DPMSolverPP2M(TableSolver):
    """DPM-Solver++(2M): with h = lambda_s - lambda_t and r the step before over this one,

        x_s = sigma_s/sigma_t x_t + alpha_s (1 - exp(-h)) [(1 + 1/(2r)) D_t - 1/(2r) D_before].

    Lu et al. (2022b), algorithm 2. Order 2, one evaluation a step, the first step DDIM's.
    """

    claimed_order = 2

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        h = s.lam - t.lam
        gain = s.alpha * -torch.expm1(-h)
        half = torch.cat([torch.zeros_like(h[:1]), 0.5 * h[1:] / h[:-1]])  # 1/(2r)
        for at, to, carry, newest, before in by_step(t.t, s.t, s.sigma / t.sigma, gain * (1 + half), -gain * half):
            yield Row(to, carry, (newest, before), at)
