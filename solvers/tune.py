"""Solvers fitted to a model: the time grid, and the kind of step, that come closest to its exact flow."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from solvers.adams import Adams, Clock
from solvers.noise import PRIOR, Noise
from solvers.prediction import Predict
from solvers.runge_kutta import RungeKutta
from solvers.solver import TableSolver, denoiser_of, place_of
from solvers.table import Denoise, Table


@dataclass(frozen=True)
class Tuned:
    """A solver made for one model and one budget.

    Attributes:
        solver: the solver, its grid the fitted times.
        nfe: evaluations per sample.
        before: median distance to the exact end point of the best untuned candidate, on held-out samples, in
            units of the data and per root component.
        after: that of the tuned solver, on the same samples.
        start: the candidate that `before` belongs to.
        cost: evaluations per sample that the fitting took, the reference included; a backward pass counts as two.
        seconds: wall time of the fitting.
        batch, iterations, seed: what it used.
    """

    solver: TableSolver
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
    """The steps worth trying: Adams of each prediction and of orders 2 to 4, on the grid of few steps."""
    kinds: tuple[Predict, ...] = ("rectified", "velocity", "noise", "denoised")
    return [
        Adams(order=min(order, nfe), predict=predict, steps=nfe, clock=clock)
        for predict in kinds
        for order in (2, 3, 4)
        for clock in get_args(Clock)[:2]
    ]


def tune(
    model: Any,
    solver: TableSolver | None = None,
    nfe: int = 8,
    *,
    shape: tuple[int, ...],
    batch: int = 128,
    iterations: int = 120,
    rate: float = 0.05,
    reference_steps: int = 128,
    seed: int = 0,
) -> Tuned:
    """Fit the times of a solver to a model, by gradient descent through the sampler.

    The loss is the mean log-distance between the solver's end points and those of a fine Runge-Kutta solution
    from the same noise; the parameters are the steps in log-SNR, their sum, and so the end time, included.
    The model's weights are left alone. Without a solver, the best of `candidates` is taken.

    Args:
        model: has `sde` and `denoise(x, t)`, differentiable in both.
        solver: a deterministic table solver, or None to choose one.
        nfe: evaluations per sample.
        shape: of one sample.
        batch: trajectories to fit on, as many to choose among fits, and as many to measure on.
        iterations: of Adam.
        rate: its learning rate.
        reference_steps: of the reference, four evaluations each.
        seed: of the noise.

    Raises:
        ValueError: if the solver is stochastic, or the budget pays for no step of it.
    """
    if solver is not None and solver.stochastic:
        raise ValueError(f"solver: expected a deterministic one, got {type(solver).__name__}")
    began = time.perf_counter()
    sde, denoise = model.sde, denoiser_of(model)
    device, dtype = place_of(model)
    x = sde.prior.std * Noise(seed, (3 * batch, *shape), stream=PRIOR, dtype=dtype, device=device)()
    with torch.no_grad():
        reference = RungeKutta(steps=reference_steps + 1, grid="log_snr", final="half_step")
        exact = reference.solve(model, x)
    fit, choose, held_out = (slice(k * batch, (k + 1) * batch) for k in range(3))

    def distance(solver: TableSolver, part: slice) -> Tensor:
        with torch.no_grad():
            return rms(solver.solve(model, x[part]) - exact[part])

    choices = candidates(nfe) if solver is None else [solver.with_budget(nfe, sde)]
    choices = [choice.for_model(model) for choice in choices]
    scores = [float(distance(choice, fit).log().mean()) for choice in choices]
    best = choices[min(range(len(choices)), key=scores.__getitem__)]

    times = best.times(sde)
    first = float(sde.log_snr(times[0]))
    steps = sde.log_snr(times).diff().log().requires_grad_()
    optimiser = torch.optim.Adam([steps], lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)

    def fitted(steps: Tensor) -> TableSolver:
        return dataclasses.replace(best, grid=tuple(grid_of(sde, first, steps.detach()).tolist()), eps=None)

    kept, least = steps.detach().clone(), math.inf
    for iteration in range(iterations + 1):
        # The grid to begin with stands among those to choose from: tuning never makes it worse there.
        if iteration % 10 == 0 or iteration == iterations:
            reached = distance(fitted(steps), choose).log().mean().item()
            if reached < least:
                kept, least = steps.detach().clone(), reached
        if iteration == iterations:
            break
        table = best.table(sde, grid_of(sde, first, steps))
        loss = rms(differentiably(table, denoise, x[fit]) - exact[fit]).log().mean()
        (gradient,) = torch.autograd.grad(loss, steps)
        if not bool(gradient.isfinite().all()):
            break
        steps.grad = gradient
        torch.nn.utils.clip_grad_norm_([steps], 1.0)
        optimiser.step()
        schedule.step()
    tuned = fitted(kept)
    used = sum(choice.table(sde).nfe for choice in choices)
    return Tuned(
        solver=tuned,
        nfe=nfe,
        before=float(distance(best, held_out).median()),
        after=float(distance(tuned, held_out).median()),
        start=best,
        cost=reference.table(sde).nfe + used + 3 * nfe * iterations,
        seconds=time.perf_counter() - began,
        batch=batch,
        iterations=iterations,
        seed=seed,
    )


def grid_of(sde: Any, first: float, steps: Tensor) -> Tensor:
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
