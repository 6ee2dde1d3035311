"""Solvers fitted to a model: the times, the kind of step and its weights that come closest to its exact flow."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from torch import Tensor

from backdrift.solvers.model import Denoises
from backdrift.solvers.tables.adams import Adams
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.multistep import Clock
from backdrift.solvers.tables.non_stationary import NonStationary, canonical
from backdrift.solvers.tables.prediction import Predict
from backdrift.solvers.tables.table_solver import TableSolver
from backdrift.solvers.tuning.around import Around, grid_of
from backdrift.solvers.tuning.descent import descend
from backdrift.solvers.tuning.reference import Reference


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
    """The solvers worth trying: Adams by default, and in each prediction with 2 to 4 values, corrected or not."""
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
    """Fit a solver to a model by gradient descent through the sampler: its times, then the weights of its steps.

    The loss is the mean logarithm of the distance between the ends of the solver's trajectories and those of a fine
    Runge-Kutta solution from the same noise. The first parameters are the steps in log-SNR. Their sum is free, and so
    is the end time. Then the numbers of a `NonStationary` solver are fitted as well, which begins as the solver on the
    fitted times (Shaul et al. 2024); when the data are moved, its samples still move along. The model's weights do not
    change. Without a solver, the best of `candidates` is taken. Fits are compared on trajectories that they were not
    made on, and none is kept that is worse there than what it began with.

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
    _require(model, solver, weights)
    weights = solver is None if weights is None else weights
    began, sde = time.perf_counter(), model.sde
    reference = Reference.of(model, shape, batch, reference_steps, seed)
    choices = candidates(nfe) if solver is None else [solver.with_budget(nfe, sde)]
    choices = [choice.for_model(model) for choice in choices]
    scores = [float(reference.distance(choice, 0).log().mean()) for choice in choices]
    best = choices[min(range(len(choices)), key=scores.__getitem__)]
    used = sum(choice.table(sde).nfe for choice in choices) + 3 * nfe * iterations * (1 + weights)

    tuned: TableSolver | NonStationary
    tuned, steps = _fit_times(best, reference, iterations, rate)
    if weights:
        tuned = _fit_weights(best, steps, reference, iterations, rate / 5)
    return Tuned(
        solver=tuned,
        nfe=nfe,
        before=float(reference.distance(best, 2).median()),
        after=float(reference.distance(tuned, 2).median()),
        start=best,
        cost=reference.nfe + used,
        seconds=time.perf_counter() - began,
        batch=batch,
        iterations=iterations,
        seed=seed,
    )


def _require(model: Denoises, solver: TableSolver | None, weights: bool | None) -> None:
    """Raise `ValueError` for a solver that cannot be tuned."""
    if solver is not None and solver.stochastic:
        raise ValueError(f"solver: expected a deterministic one, got {type(solver).__name__}")
    if weights and solver is not None and solver.table(model.sde).nfe != solver.steps:
        raise ValueError(f"weights: fitted where a step takes one evaluation, not for {type(solver).__name__}")


def _fit_times(best: TableSolver, reference: Reference, iterations: int, rate: float) -> tuple[TableSolver, Tensor]:
    """The solver on fitted times, and the logarithms of its steps in log-SNR."""
    sde = reference.model.sde
    log_snr = sde.log_snr(best.times(sde))
    first = float(log_snr[0])

    def on_times(steps: Tensor) -> TableSolver:
        return dataclasses.replace(best, grid=tuple(grid_of(sde, first, steps).tolist()), eps=None)

    def loss(steps: Tensor) -> Tensor:
        return reference.loss(best.table(sde, grid_of(sde, first, steps)))

    tuned, (steps,) = descend([log_snr.diff().log()], loss, on_times, reference.score, iterations, rate)
    return tuned, steps


def _fit_weights(best: TableSolver, steps: Tensor, reference: Reference, iterations: int, rate: float) -> NonStationary:
    """A solver with weights of its own for every step, which begins as `best` on fitted times."""
    sde = reference.model.sde
    first = float(sde.log_snr(best.times(sde)[0]))
    points = Points(sde, grid_of(sde, first, steps))
    around = Around(sde, first, steps, *canonical(best.table(sde, points.t), points))

    def loss(*parameters: Tensor) -> Tensor:
        return reference.loss(around.table(*parameters))

    return descend(around.origin(), loss, around.solver, reference.score, iterations, rate)[0]
