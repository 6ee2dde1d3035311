"""Non-stationary solvers near a given one, as a function of parameters for gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.lower_begin import from_T
from backdrift.solvers.tables.non_stationary import NonStationary, non_stationary_rows
from backdrift.solvers.tables.table import Table


@dataclass(frozen=True)
class Around:
    """The `NonStationary` solvers near a given one, as a function of parameters that are 0 at the given one.

    The parameters change the steps in log-SNR, multiply each carry by a factor, and add to every weight except that of
    the newest value. The weight of the newest value follows, so that carry + sum_j weights_j stays the same.

    Args:
        sde: the process.
        first: the log-SNR at the first evaluation, at T or below it.
        steps: the logarithms of the given solver's steps in log-SNR, `[n - 1]`.
        carries: the carries of the given solver, `[n]`.
        weights: its weights, lower triangular, `[n, n]`. Column j belongs to the j-th value.
    """

    sde: GaussianSDE
    first: float
    steps: Tensor
    carries: Tensor
    weights: Tensor

    def origin(self) -> list[Tensor]:
        """The parameters of the given solver, which are 0: for the steps, the carries and the weights."""
        n = len(self.carries)
        return [torch.zeros(size, dtype=torch.float64, device="cpu") for size in (n - 1, n, n * (n - 1) // 2)]

    def numbers(self, steps: Tensor, carries: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The times `[n]`, carries `[n]` and weights `[n, n]` of the solver with these parameters."""
        n = len(self.carries)
        times = grid_of(self.sde, self.first, self.steps + steps)
        # A carry is close to the ratio of the noise levels after and before the step, so it changes with the times.
        noise = 0.5 * (self.steps.exp() - (self.steps + steps).exp())
        carry = self.carries * (carries + torch.cat([noise, noise.new_zeros(1)])).exp()
        below = torch.tril_indices(n, n, -1)
        free = self.weights.tril(-1).index_put((below[0], below[1]), weights, accumulate=True)
        newest = self.carries + self.weights.sum(1) - carry - free.sum(1)
        return times, carry, free + torch.diag(newest)

    def table(self, *parameters: Tensor) -> Table:
        """The table of the solver with these parameters, differentiable in them."""
        times, carries, weights = self.numbers(*parameters)
        rows = [row[: k + 1].flip(0).unbind() for k, row in enumerate(weights)]
        points = Points(self.sde, times)
        found = list(non_stationary_rows(points, list(carries), rows))
        return Table(tuple(from_T(found, points) if begins_below(self.sde, self.first) else found))

    def solver(self, *parameters: Tensor) -> NonStationary:
        """The solver with these parameters, as plain numbers."""
        times, carries, weights = self.numbers(*parameters)
        return NonStationary(
            ratios=torch.exp(-0.5 * self.sde.log_snr(times)).tolist(),
            carries=carries.tolist(),
            weights=[row[: k + 1].flip(0).tolist() for k, row in enumerate(weights)],
            begin="lower" if begins_below(self.sde, self.first) else "T",
        )


def grid_of(sde: GaussianSDE, first: float, steps: Tensor) -> Tensor:
    """The times `[n]` that fall from T or below, from the log-SNR `first` of the first one and the logarithms `[n - 1]`
    of the steps in log-SNR.
    """
    start = torch.tensor([first], dtype=torch.float64, device="cpu")
    times = sde.t_from_log_snr(torch.cat([start, first + steps.exp().cumsum(0)]))
    if begins_below(sde, first):
        return times
    return torch.cat([torch.tensor([sde.start], dtype=torch.float64, device="cpu"), times[1:]])


def begins_below(sde: GaussianSDE, first: float) -> bool:
    """Whether the log-SNR `first` is that of a time below T."""
    return first > float(sde.log_snr(sde.start)) + 1e-9
