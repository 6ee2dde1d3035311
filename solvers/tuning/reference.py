"""Reference trajectories: starting points, and where a solver with many steps carries them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.solvers.model import Denoises, denoiser_of, place_of, prior_of, select
from backdrift.solvers.noise import PRIOR, Noise
from backdrift.solvers.solver import Solver
from backdrift.solvers.tables.runge_kutta import RungeKutta
from backdrift.solvers.tables.table import Denoise, Table


@dataclass(frozen=True)
class Reference:
    """Starting points and the points to which the exact flow carries them, in three parts of `batch` trajectories.

    Solvers are fitted on the first part. The second part is used to choose among fits, and the third to measure the
    chosen one.

    Attributes:
        model: the model that defines the flow. One that holds something for each sample, such as a label, holds it for
            all `3 batch` trajectories.
        x: the starting points, `[3 batch, ...]`.
        exact: the end points, `[3 batch, ...]`, from a Runge-Kutta method of order 4 with many steps.
        batch: the number of trajectories in each part.
        nfe: the number of evaluations of the model for each trajectory.
    """

    model: Denoises
    x: Tensor
    exact: Tensor
    batch: int
    nfe: int

    @classmethod
    def of(cls, model: Denoises, shape: tuple[int, ...], batch: int, steps: int, seed: int) -> Reference:
        """Draw starting points with a seed, and solve for their end points with `steps` steps.

        Args:
            model: the model.
            shape: the shape of one sample.
            batch: the number of trajectories in each part.
            steps: the number of Runge-Kutta steps.
            seed: the seed of the starting points.
        """
        device, dtype = place_of(model)
        noise = Noise(seed, (3 * batch, *shape), stream=PRIOR, dtype=dtype, device=device)
        x = prior_of(model).from_noise(noise())
        solver = RungeKutta(steps=steps + 1, grid="log_snr", final="half_step")
        with torch.no_grad():
            exact = solver.solve(model, x)
        return cls(model, x, exact, batch, solver.table(model.sde).nfe)

    def part(self, number: int) -> slice:
        """The indices of the trajectories of part 0, 1 or 2."""
        return slice(number * self.batch, (number + 1) * self.batch)

    def model_of(self, number: int) -> Denoises:
        """The model for the trajectories of part 0, 1 or 2."""
        part = self.part(number)
        return select(self.model, torch.arange(part.start, part.stop, device=self.x.device))

    def distance(self, solver: Solver, number: int) -> Tensor:
        """The distance between the solver's end points and the exact ones on a part, root mean square, `[batch]`."""
        part = self.part(number)
        with torch.no_grad():
            return rms(solver.solve(self.model_of(number), self.x[part]) - self.exact[part])

    def loss(self, table: Table) -> Tensor:
        """The mean logarithm of the distance on the first part, differentiable in the table's coefficients."""
        part = self.part(0)
        ends = differentiably(table, denoiser_of(self.model_of(0)), self.x[part])
        return rms(ends - self.exact[part]).log().mean()

    def score(self, solver: Solver) -> float:
        """The mean logarithm of the distance on the second part."""
        return self.distance(solver, 1).log().mean().item()


def rms(difference: Tensor) -> Tensor:
    """The root mean square over the components of each sample, `[batch]`, at least 1e-12."""
    return difference.flatten(1).square().mean(1).clamp(min=1e-24).sqrt()


def differentiably(table: Table, denoise: Denoise, x: Tensor) -> Tensor:
    """Run a deterministic table like `execute`, but with gradients with respect to its coefficients."""
    states: list[Tensor] = [x]
    values: list[Tensor] = []
    numbers = _sent(table, x)
    for row in table.rows:
        if row.at is not None:
            value = denoise(states[-1], next(numbers))
            values.insert(0, value + next(numbers) * states[-1])
        total = next(numbers) * states[-1 - row.base]
        used = [next(numbers) for _ in row.weights]
        for weight, value in zip(used, values, strict=False):
            total = total + weight * value
        states.append(total)
    return states[-1]


def _sent(table: Table, x: Tensor) -> Iterator[Tensor]:
    """The coefficients of a table in the order in which `differentiably` takes them, sent to `x` in one transfer."""
    numbers = [
        torch.as_tensor(number, dtype=torch.float64, device="cpu")
        for row in table.rows
        for number in (*(() if row.at is None else (row.at, row.slope)), row.carry, *row.weights)
    ]
    return iter(torch.stack(numbers).to(x, non_blocking=True).unbind())
