"""Trajectories that solvers are compared with: the same starting points, carried to the data by a fine solver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.solvers.model import Denoises, denoiser_of, place_of
from backdrift.solvers.noise import PRIOR, Noise
from backdrift.solvers.solver import Solver
from backdrift.solvers.tables.runge_kutta import RungeKutta
from backdrift.solvers.tables.table import Denoise, Table


@dataclass(frozen=True)
class Reference:
    """Starting points and where the exact flow carries them, in three parts of `batch` trajectories.

    Fits are made on the first part, chosen among by the second and measured on the third.

    Attributes:
        model: whose flow it is.
        x: the starting points, `[3 batch, ...]`.
        exact: their ends, by a Runge-Kutta method of order 4 with many steps.
        batch: trajectories in a part.
        nfe: evaluations of the model for each of them.
    """

    model: Denoises
    x: Tensor
    exact: Tensor
    batch: int
    nfe: int

    @classmethod
    def of(cls, model: Denoises, shape: tuple[int, ...], batch: int, steps: int, seed: int) -> Reference:
        """Draw the starting points of a seed and solve for their ends in so many steps."""
        device, dtype = place_of(model)
        noise = Noise(seed, (3 * batch, *shape), stream=PRIOR, dtype=dtype, device=device)
        x = model.sde.prior.std * noise()
        solver = RungeKutta(steps=steps + 1, grid="log_snr", final="half_step")
        with torch.no_grad():
            exact = solver.solve(model, x)
        return cls(model, x, exact, batch, solver.table(model.sde).nfe)

    def part(self, number: int) -> slice:
        """The places of part 0, 1 or 2."""
        return slice(number * self.batch, (number + 1) * self.batch)

    def distance(self, solver: Solver, number: int) -> Tensor:
        """How far the solver's ends are from the exact ones on a part, root mean square per component, `[batch]`."""
        part = self.part(number)
        with torch.no_grad():
            return rms(solver.solve(self.model, self.x[part]) - self.exact[part])

    def loss(self, table: Table) -> Tensor:
        """The mean logarithm of the distance on the part for fits, with gradients to the table's numbers."""
        part = self.part(0)
        ends = differentiably(table, denoiser_of(self.model), self.x[part])
        return rms(ends - self.exact[part]).log().mean()

    def score(self, solver: Solver) -> float:
        """The mean logarithm of the distance on the part for choices."""
        return self.distance(solver, 1).log().mean().item()


def rms(difference: Tensor) -> Tensor:
    """Root mean square over the components of each sample, `[batch]`."""
    return difference.flatten(1).square().mean(1).clamp(min=1e-24).sqrt()


def differentiably(table: Table, denoise: Denoise, x: Tensor) -> Tensor:
    """Run a deterministic table with gradients to its coefficients, as `execute` does without them."""
    states: list[Tensor] = [x]
    values: list[Tensor] = []
    for row in table.rows:
        if row.at is not None:
            value = denoise(states[-1], torch.as_tensor(row.at).to(x))
            values.insert(0, value + torch.as_tensor(row.slope).to(x) * states[-1])
        total = torch.as_tensor(row.carry).to(x) * states[-1 - row.base]
        for weight, value in zip(row.weights, values, strict=False):
            total = total + torch.as_tensor(weight).to(x) * value
        states.append(total)
    return states[-1]
