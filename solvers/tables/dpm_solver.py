"""DPM-Solver-2 and -3, DPM-Solver++(2S and 2M), and an exponential Runge-Kutta method of order 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from backdrift.sde.value_types import OneOf
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.table import Row, by_step
from backdrift.solvers.tables.table_solver import TableSolver


def phi_1(z: Tensor) -> Tensor:
    """(e^z - 1)/z."""
    return torch.expm1(z) / z


def phi_2(z: Tensor) -> Tensor:
    """(e^z - 1 - z)/z^2. Near z = 0 it is computed from its series, since the difference would lose digits there."""
    small = z.abs() < 1e-2
    safe = torch.where(small, torch.ones_like(z), z)
    series = 1 / 2 + z / 6 + z.square() / 24 + z**3 / 120 + z**4 / 720
    return torch.where(small, series, (torch.expm1(safe) - safe) / safe.square())


@dataclass(frozen=True, kw_only=True)
class DPMSolver(TableSolver):
    """DPM-Solver-2 and DPM-Solver-3: single-step methods of order 2 and 3 for the predicted noise.

    With h = lambda_s - lambda_t, and u the point at the share r of the way from t to s in lambda, order 2 is

        x_u = alpha_u/alpha_t x - sigma_u (e^(rh) - 1) eps_t,   x_s = alpha_s/alpha_t x - sigma_s (e^h - 1) eps_u.

    Lu et al. (2022a), algorithm 1 with r = 1/2 for order 2, and algorithm 2 with r1 = 1/3 and r2 = 2/3 for order 3. A
    step costs as many evaluations as the order.

    Args:
        order: 2 or 3; a step takes as many evaluations.

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `order` is neither 2 nor 3.
    """

    order: Annotated[int, OneOf((2, 3))] = 3

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
        # The predicted noise is -(alpha/sigma) P with P = D - x/alpha.
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
    """DPM-Solver++(2S): a single-step method of order 2 for the denoiser.

    With h = lambda_s - lambda_t, and u halfway from t to s in lambda, the step is

        x_u = sigma_u/sigma_t x - alpha_u (e^(-h/2) - 1) D_t,   x_s = sigma_s/sigma_t x - alpha_s (e^(-h) - 1) D_u.

    Lu et al. (2022b), algorithm 1 with r = 1/2. The order is 2, and a step costs two evaluations.

    Its arguments are those of every solver on a fixed grid, see `TableSolver`.
    """

    claimed_order = 2

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        u, h = t.between(s, 0.5), s.lam - t.lam
        weights = [[-u.alpha * torch.expm1(-0.5 * h)], [-s.alpha * torch.expm1(-h), 0 * h]]
        return stage_rows([t, u], [u, s], [u.sigma / t.sigma, s.sigma / t.sigma], weights, [0 * h, 0 * h])


@dataclass(frozen=True, kw_only=True)
class ExponentialRK3(TableSolver):
    """An exponential Runge-Kutta method of order 3, which keeps its order if the linear part is stiff.

    It solves the probability flow for x^ = x/alpha,

        dx^/dlambda = -x^ + D,

    with the nodes c2 = 1/2 and c3 = 2/3 and the coefficients b1 = phi_1 - 3/2 phi_2, b3 = 3/2 phi_2 (at -h) and
    a32 = 4/(9 c2) phi_2(-2h/3), where h = lambda_s - lambda_t. Hochbruck & Ostermann (2005). A step costs three
    evaluations.

    Its arguments are those of every solver on a fixed grid, see `TableSolver`.
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
    """The rows of a single-step method. Stage i starts from the beginning of the step and uses all its values so far.

    Args:
        nodes: the points at which the stages evaluate the model.
        stages: the points to which the stages lead. The last one is the end of the step.
        carry: the coefficient of the state at the beginning of the step, one array over steps for each stage.
        weights: the weights of the values for each stage, the newest value first, each an array over steps.
        slopes: the slope of each stage's value (see `Row`), an array over steps.
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
    """DPM-Solver++(2M): a two-step method of order 2 for the denoiser, and a popular choice for few evaluations.

    With h = lambda_s - lambda_t, and r the length in lambda of the step before divided by that of this step, it is

        x_s = sigma_s/sigma_t x_t + alpha_s (1 - exp(-h)) [(1 + 1/(2r)) D_t - 1/(2r) D_before].

    Lu et al. (2022b), algorithm 2. The first step is that of DDIM. A step costs one evaluation.

    Its arguments are those of every solver on a fixed grid, see `TableSolver`.
    """

    claimed_order = 2

    def rows(self, points: Points) -> Iterator[Row]:
        t, s = points.steps()
        h = s.lam - t.lam
        gain = s.alpha * -torch.expm1(-h)
        half = torch.cat([torch.zeros_like(h[:1]), 0.5 * h[1:] / h[:-1]])  # 1/(2r)
        for at, to, carry, newest, before in by_step(t.t, s.t, s.sigma / t.sigma, gain * (1 + half), -gain * half):
            yield Row(to, carry, (newest, before), at)
