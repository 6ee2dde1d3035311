"""Solvers fitted to a model: the times, the kind of step and its weights that come closest to its exact flow."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.solvers.model import Denoises, denoiser_of, place_of
from backdrift.solvers.noise import PRIOR, Noise
from backdrift.solvers.solver import Solver
from backdrift.solvers.tables.adams import Adams
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.multistep import Clock
from backdrift.solvers.tables.non_stationary import NonStationary, canonical, non_stationary_rows
from backdrift.solvers.tables.prediction import Predict
from backdrift.solvers.tables.runge_kutta import RungeKutta
from backdrift.solvers.tables.table import Denoise, Table
from backdrift.solvers.tables.table_solver import TableSolver


@dataclass(frozen=True)
class Tuned:
    """A solver made for one model and one budget.

    Attributes:
        solver: the one begun with on fitted times, or a `NonStationary` where weights are fitted too.
        nfe: evaluations per sample.
        before: median distance to the exact end point of the best untuned candidate, on held-out samples, in
            units of the data and per root component.
        after: that of the tuned solver, on the same samples.
        start: the candidate that `before` belongs to.
        cost: evaluations per sample that the fitting took, the reference included; a backward pass counts as two.
        seconds: wall time of the fitting.
        batch, iterations, seed: what it used.
    """

    solver: TableSolver | NonStationary
    nfe: int
    before: float
    after: float
    start: TableSolver
    cost: int
    seconds: float
    batch: int
    iterations: int
    seed: int

    def __str__(self) -> str:
        return (
            f"{type(self.solver).__name__} at {self.nfe} NFE: median distance to the exact flow {self.before:.3e} "
            f"before, {self.after:.3e} after ({self.before / self.after:.2f} times closer), on held-out samples; "
            f"{self.cost} evaluations a sample and {self.seconds:.0f} s to fit"
        )


def candidates(nfe: int) -> list[TableSolver]:
    """The steps worth trying: Adams as it is, and in each prediction of 2 to 4 values, with a corrector or without."""
    kinds: tuple[Predict, ...] = ("rectified", "velocity", "noise", "denoised")
    clocks: tuple[Clock, ...] = ("wide_angle", "log_snr")
    adams = [
        Adams(order=min(order, nfe), corrector=corrector, predict=predict, steps=nfe, clock=clock)
        for predict in kinds
        for order, corrector in ((2, 0), (2, 3), (3, 0), (3, 4), (4, 0), (4, 4))
        for clock in clocks
    ]
    return [Adams(steps=nfe), *adams]


def tune(
    model: Denoises,
    solver: TableSolver | None = None,
    nfe: int = 8,
    *,
    shape: tuple[int, ...],
    weights: bool | None = None,
    batch: int = 128,
    iterations: int = 120,
    rate: float = 0.05,
    reference_steps: int = 128,
    seed: int = 0,
) -> Tuned:
    """Fit a solver to a model, by gradient descent through the sampler: its times, then the weights of its steps.

    The loss is the mean log-distance between the solver's end points and those of a fine Runge-Kutta solution
    from the same noise. The parameters are the steps in log-SNR, their sum, and so the end time, included; then
    with them the numbers of a `NonStationary` solver that begins as the fitted one (Shaul et al. 2024), its samples
    still moving along when the data are moved. The model's weights are left alone. Without a solver, the best of
    `candidates` is taken. Fits are compared on trajectories they were not made on, and none is kept that is worse
    there than what it began with.

    Args:
        model: has `sde` and `denoise(x, t)`, differentiable in both.
        solver: a deterministic table solver, or None to choose one.
        nfe: evaluations per sample.
        shape: of one sample.
        weights: whether to fit the weights as well as the times; by default where no solver is given.
        batch: trajectories to fit on, as many to choose among fits, and as many to measure on.
        iterations: of Adam, for the times and again for the weights.
        rate: its learning rate for the times.
        reference_steps: of the reference, four evaluations each.
        seed: of the noise.

    Raises:
        ValueError: if the solver is stochastic, the budget pays for no step of it, or weights are asked for where a
            step takes several evaluations.
    """
    if solver is not None and solver.stochastic:
        raise ValueError(f"solver: expected a deterministic one, got {type(solver).__name__}")
    weights = solver is None if weights is None else weights
    if weights and solver is not None and solver.table(model.sde).nfe != solver.steps:
        raise ValueError(f"weights: fitted where a step takes one evaluation, not for {type(solver).__name__}")
    began = time.perf_counter()
    sde, denoise = model.sde, denoiser_of(model)
    device, dtype = place_of(model)
    x = sde.prior.std * Noise(seed, (3 * batch, *shape), stream=PRIOR, dtype=dtype, device=device)()
    with torch.no_grad():
        reference = RungeKutta(steps=reference_steps + 1, grid="log_snr", final="half_step")
        exact = reference.solve(model, x)
    fit, choose, held_out = (slice(k * batch, (k + 1) * batch) for k in range(3))

    def distance(solver: TableSolver | NonStationary, part: slice) -> Tensor:
        with torch.no_grad():
            return rms(solver.solve(model, x[part]) - exact[part])

    def loss(table: Table) -> Tensor:
        return rms(differentiably(table, denoise, x[fit]) - exact[fit]).log().mean()

    def score(solver: TableSolver | NonStationary) -> float:
        return distance(solver, choose).log().mean().item()

    choices = candidates(nfe) if solver is None else [solver.with_budget(nfe, sde)]
    choices = [choice.for_model(model) for choice in choices]
    scores = [float(distance(choice, fit).log().mean()) for choice in choices]
    best = choices[min(range(len(choices)), key=scores.__getitem__)]

    times = best.times(sde)
    first = float(sde.log_snr(times[0]))

    def on_times(steps: Tensor) -> TableSolver:
        return dataclasses.replace(best, grid=tuple(grid_of(sde, first, steps).tolist()), eps=None)

    tuned: TableSolver | NonStationary
    tuned, (steps,) = descend(
        [sde.log_snr(times).diff().log()],
        lambda steps: loss(best.table(sde, grid_of(sde, first, steps))),
        on_times,
        score,
        iterations,
        rate,
    )
    used = sum(choice.table(sde).nfe for choice in choices) + 3 * nfe * iterations
    if weights:
        points = Points(sde, grid_of(sde, first, steps))
        around = Around(sde, first, steps, *canonical(best.table(sde, points.t), points))
        tuned, _ = descend(
            around.origin(), lambda *p: loss(around.table(*p)), around.solver, score, iterations, rate / 5
        )
        used += 3 * nfe * iterations
    return Tuned(
        solver=tuned,
        nfe=nfe,
        before=float(distance(best, held_out).median()),
        after=float(distance(tuned, held_out).median()),
        start=best,
        cost=reference.table(sde).nfe + used,
        seconds=time.perf_counter() - began,
        batch=batch,
        iterations=iterations,
        seed=seed,
    )


Solvers = TypeVar("Solvers", bound=Solver)


def descend(
    parameters: list[Tensor],
    loss: Callable[..., Tensor],
    solver: Callable[..., Solvers],
    score: Callable[[Solvers], float],
    iterations: int,
    rate: float,
) -> tuple[Solvers, list[Tensor]]:
    """Adam on `loss(*parameters)`; of the solvers on the way, the beginning among them, the one of the least score."""
    now = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    optimiser = torch.optim.Adam(now, lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(iterations, 1))
    kept, least = [parameter.detach().clone() for parameter in now], math.inf
    for iteration in range(iterations + 1):
        if iteration % 10 == 0 or iteration == iterations:
            here = [parameter.detach().clone() for parameter in now]
            reached = score(solver(*here))
            if reached < least:
                kept, least = here, reached
        if iteration == iterations:
            break
        gradients = torch.autograd.grad(loss(*now), now)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            break
        for parameter, gradient in zip(now, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(now, 1.0)
        optimiser.step()
        schedule.step()
    return solver(*kept), kept


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
