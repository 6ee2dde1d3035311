"""The non-stationary solvers around a given one, by parameters that a gradient can move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.non_stationary import NonStationary, non_stationary_rows
from backdrift.solvers.tables.table import Table


@dataclass(frozen=True)
class Around:
    """The `NonStationary` solvers around a given one, by parameters that are 0 there.

    What is free: the steps in log-SNR, a factor of each carry, and every weight but that of the newest value, which
    keeps carry + sum_j weights_j as it was.

    Args:
        sde: the process.
        first: log-SNR at T.
        steps: logarithms of the steps in log-SNR, `[n - 1]`.
        carries: `[n]`.
        weights: lower triangular `[n, n]`, a row's in the order of the values.
    """

    sde: GaussianSDE
    first: float
    steps: Tensor
    carries: Tensor
    weights: Tensor

    def origin(self) -> list[Tensor]:
        n = len(self.carries)
        return [torch.zeros(size, dtype=torch.float64) for size in (n - 1, n, n * (n - 1) // 2)]

    def numbers(self, steps: Tensor, carries: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times, carries and weights."""
        n = len(self.carries)
        times = grid_of(self.sde, self.first, self.steps + steps)
        # A carry is above all the ratio of the noise after and before: it goes along with the times.
        noise = 0.5 * (self.steps.exp() - (self.steps + steps).exp())
        carry = self.carries * (carries + torch.cat([noise, noise.new_zeros(1)])).exp()
        below = torch.tril_indices(n, n, -1)
        free = self.weights.tril(-1).index_put((below[0], below[1]), weights, accumulate=True)
        newest = self.carries + self.weights.sum(1) - carry - free.sum(1)
        return times, carry, free + torch.diag(newest)

    def table(self, *parameters: Tensor) -> Table:
        times, carries, weights = self.numbers(*parameters)
        rows = [row[: k + 1].flip(0).unbind() for k, row in enumerate(weights)]
        return Table(tuple(non_stationary_rows(Points(self.sde, times), list(carries), rows)))

    def solver(self, *parameters: Tensor) -> NonStationary:
        times, carries, weights = self.numbers(*parameters)
        return NonStationary(
            ratios=torch.exp(-0.5 * self.sde.log_snr(times)).tolist(),
            carries=carries.tolist(),
            weights=[row[: k + 1].flip(0).tolist() for k, row in enumerate(weights)],
        )


def grid_of(sde: GaussianSDE, first: float, steps: Tensor) -> Tensor:
    """Times from T down, given the logarithms of the steps in log-SNR."""
    start = torch.tensor([first], dtype=torch.float64)
    times = sde.t_from_log_snr(torch.cat([start, first + steps.exp().cumsum(0)]))
    return torch.cat([torch.tensor([sde.T], dtype=torch.float64), times[1:]])
