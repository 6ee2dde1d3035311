"""Non-stationary solvers: multistep solvers that are given by their coefficients alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor

from backdrift.sde import SDE, GaussianSDE
from backdrift.sde.arguments import check_fields
from backdrift.solvers.model import ModelLike, denoiser_of, recomputed
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, require_gaussian
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.lower_begin import from_T
from backdrift.solvers.tables.table import Number, Row, Table, by_step, execute


@dataclass(frozen=True, kw_only=True)
class NonStationary(Solver):
    """A non-stationary solver: a solver of the probability flow with its own weights for every step.

    `tune` returns one. In x^ = x/alpha and s = sigma/alpha its steps are

        x^_(k+1) = carry_k x^_k + sum_(j <= k) weights_kj D_j,

    where D_j is the denoiser at s_j. The last step leads to the data. Every deterministic solver on a fixed grid can be
    written in this form (Shaul et al. 2024). The coefficients do not depend on alpha, so they can be used with every
    process that reaches s_0. If carry_k + sum_j weights_kj = 1 for all k, a shift of the data shifts the
    samples by the same amount.

    Args:
        ratios: the values s_0 >= s_1 >= ... at which the model is evaluated, in the units of the data. s_0 is at T with
            begin="T", and below it with "lower".
        carries: the coefficient of the state for each evaluation.
        weights: the weights of the denoisers for each step, the newest first. Row k has k + 1 of them.
        begin: where the first evaluation is made, "T" or "lower". With "lower" its denoiser serves for the way from T
            as well, see `solvers.tables.lower_begin.from_T`.

    Raises:
        ValueError: if the ratios are not positive or rise, or if the numbers of carries and weights do not fit them.
            `solve` raises it if the process is not Gaussian, and with `times` and `table` if it has another s at T, or
            with begin="lower" a smaller one than s_0.
    """

    ratios: Sequence[float]
    carries: Sequence[float]
    weights: Sequence[Sequence[float]]
    begin: Literal["T", "lower"] = "T"

    def __post_init__(self) -> None:
        check_fields(self)
        n = len(self.ratios)
        if not n or any(b > a for a, b in pairwise(self.ratios)) or self.ratios[-1] <= 0:
            raise ValueError(f"ratios: expected positive numbers that do not rise, got {list(self.ratios)}")
        if len(self.carries) != n:
            raise ValueError(f"carries: expected one for each of {n} evaluations, got {len(self.carries)}")
        if [len(row) for row in self.weights] != list(range(1, n + 1)):
            raise ValueError(f"weights: expected rows of 1 to {n} numbers, got {[len(row) for row in self.weights]}")

    @property
    def differentiable(self) -> bool:
        return True

    def require_process(self, sde: SDE) -> None:
        require_gaussian(self, sde)

    def times(self, sde: GaussianSDE) -> Tensor:
        """The times of the evaluations, which fall from T or with begin="lower" from below it, `[n]` in float64.

        Raises:
            ValueError: if the process begins at another sigma/alpha than the one that the solver was fitted for.
        """
        first = math.exp(-0.5 * float(sde.log_snr(sde.start)))
        same = abs(first / self.ratios[0] - 1) <= 1e-3
        if not same and not (self.begin == "lower" and self.ratios[0] < first):
            raise ValueError(
                f"ratios: this solver begins at sigma/alpha = {self.ratios[0]:.6g}, the process at {first:.6g}; "
                "tune one for it"
            )
        times = sde.t_from_log_snr(-2 * torch.tensor(self.ratios, dtype=torch.float64, device="cpu").log())
        if same:
            times[0] = sde.start
        return times

    def table(self, sde: GaussianSDE) -> Table:
        """The table of the solver for a process, for a state at T."""
        points = Points(sde, self.times(sde))
        rows = self.rows(points)
        return Table(tuple(from_T(rows, points) if float(points.t[0]) < sde.start else rows))

    def rows(self, points: Points) -> list[Row]:
        """The rows for a state at the first of the times of the evaluations."""
        return list(non_stationary_rows(points, self.carries, self.weights))

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        self.require_process(model.sde)
        table = self.table(cast(GaussianSDE, model.sde))
        return execute(table, recomputed(denoiser_of(model), model, x), x, noise, on_step)


def non_stationary_rows(
    points: Points, carries: Sequence[Number], weights: Sequence[Sequence[Number]]
) -> Iterator[Row]:
    """The rows of a `NonStationary` solver: from each point to the next, and from the last point to the data."""
    end = torch.zeros(1, dtype=points.t.dtype)
    to, alpha = torch.cat([points.t[1:], end]), torch.cat([points.alpha[1:], end + 1])
    for (at, to_k, scale, kept), carry, row in zip(
        by_step(points.t, to, alpha, alpha / points.alpha), carries, weights, strict=True
    ):
        yield Row(to_k, kept * carry, tuple(scale * weight for weight in row), at)


def canonical(table: Table, points: Points) -> tuple[Tensor, Tensor]:
    """Write a deterministic table in the form of `NonStationary`.

    Every state of the table is a x_T + sum_j u_j D_j. The coefficients (a, u) of the states follow by running the table
    on them.

    Args:
        table: a table without noise.
        points: the times of its evaluations, in order.

    Returns:
        The carries `[n]` and the weights `[n, n]`. The weights are lower triangular, and column j belongs to D_j.
    """
    unit = torch.eye(1 + table.nfe, dtype=torch.float64, device="cpu")
    states: list[Tensor] = [unit[0]]
    values: list[Tensor] = []
    asked: list[Tensor] = []
    for row in table.numbers().rows:
        if row.at is not None:
            values.insert(0, unit[1 + len(asked)] + row.slope * states[-1])
            asked.append(states[-1])
        mixture = row.carry * states[-1 - row.base]
        for weight, value in zip(row.weights, values, strict=False):
            mixture = mixture + weight * value
        states.append(mixture)
    scaled = torch.stack([*asked, states[-1]]) / torch.cat([points.alpha, points.alpha.new_ones(1)])[:, None]
    carries = scaled[1:, 0] / scaled[:-1, 0]
    return carries, scaled[1:, 1:] - carries[:, None] * scaled[:-1, 1:]
