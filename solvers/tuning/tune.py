"""Fit a solver to a model: find the times and weights whose samples are closest to the exact flow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from backdrift.sde.checks import require_count
from backdrift.sde.tensor_checks import require_sizes
from backdrift.solvers.model import Denoises, require_model
from backdrift.solvers.tables.adams import Adams
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.multistep import Clock
from backdrift.solvers.tables.non_stationary import NonStationary, canonical
from backdrift.solvers.tables.prediction import Predict
from backdrift.solvers.tables.table_solver import TableSolver
from backdrift.solvers.tuning.around import Around, grid_of
from backdrift.solvers.tuning.descent import descend
from backdrift.solvers.tuning.reference import Reference

OnIteration = Callable[[int, int, TableSolver | NonStationary], None]
"""A function that a fit calls with the number of iterations done, the number of all, and the best solver so far."""


@dataclass(frozen=True)
class Tuned:
    """A solver that was fitted to one model for one number of evaluations.

    Attributes:
        solver: the fitted solver. It is the one in `start` on fitted times, or a `NonStationary` if the weights were
            fitted too.
        nfe: the number of evaluations per sample. Heun's method at an even budget takes one fewer than was asked for.
        before: the median distance between the samples of `start` and the exact end points, on held-out trajectories.
            The distance is the root mean square over the components, in units of the data.
        after: the same for the fitted solver, on the same trajectories.
        start: the solver that the fit started from.
        cost: the number of evaluations per trajectory that the fit took, including the reference. A backward pass
            counts as two.
        seconds: the wall time of the fit in seconds.
        batch: the number of trajectories to fit on.
        iterations: the number of iterations of Adam.
        seed: the seed of the trajectories.
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
    """The solvers to try: the default `Adams`, and `Adams` with other predictions, numbers of values and clocks."""
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
    on_iteration: OnIteration | None = None,
) -> Tuned:
    """Fit a solver to a model by gradient descent: first its times, then the weights of its steps.

    Take it if you draw many samples of one model with few evaluations. The weights of the network do not change.

    The loss is the mean logarithm of the distance between the samples of the solver and those of a Runge-Kutta method
    with many steps, from the same starting points. First the steps in log-SNR are fitted. Their sum is free, so the end
    time is fitted too. Then the coefficients of a `NonStationary` solver are fitted, starting from the solver on the
    fitted times (Shaul et al. 2024). A shift of the data still shifts its samples by the same amount. Fits are compared
    on other trajectories than those they were made on, and a fit is kept only if it is better there than its start.

    Args:
        model: a model with `sde` and `denoise(x, t)`, which must be differentiable in x and t. One that holds something
            for each sample, such as a label, holds it for `3 batch` trajectories.
        solver: a deterministic table solver. By default the best of `candidates` is taken.
        nfe: the number of evaluations per sample.
        shape: the shape of one sample.
        weights: whether to fit the weights as well as the times. By default it is true if no solver is given.
        batch: the number of trajectories to fit on. As many are used to choose among fits, and as many to measure.
        iterations: the number of iterations of Adam for the times, and again for the weights.
        rate: the learning rate for the times. For the weights it is a fifth of this.
        reference_steps: the number of Runge-Kutta steps of the reference, which take four evaluations each.
        seed: the seed of the starting points.
        on_iteration: called with the number of iterations done, the number of all, and the best solver so far.

    Raises:
        ValueError: if the solver is stochastic, if one of its steps takes more than `nfe` evaluations, if `weights` is
            true and its steps take several evaluations each, or if `nfe` or `shape` is out of range.
        TypeError: if `model` is not a model.
    """
    require_model(model)
    require_count("nfe", nfe)
    require_sizes(shape)
    _require(model, solver, weights)
    weights = solver is None if weights is None else weights
    began, sde = time.perf_counter(), model.sde
    reference = Reference.of(model, shape, batch, reference_steps, seed)
    choices = candidates(nfe) if solver is None else [solver.with_budget(nfe, sde)]
    choices = [choice.for_model(model) for choice in choices]
    scores = [float(reference.distance(choice, 0).log().mean()) for choice in choices]
    best = choices[min(range(len(choices)), key=scores.__getitem__)]
    used = sum(choice.table(sde).nfe for choice in choices) + 3 * best.table(sde).nfe * iterations * (1 + weights)

    tuned: TableSolver | NonStationary
    total = iterations * (1 + weights)

    def tell(before: int) -> Callable[[int, TableSolver | NonStationary], None]:
        return lambda done, fitted: None if on_iteration is None else on_iteration(before + done, total, fitted)

    tuned, steps = _fit_times(best, reference, iterations, rate, tell(0))
    if weights:
        tuned = _fit_weights(best, steps, reference, iterations, rate / 5, tell(iterations))
    return Tuned(
        solver=tuned,
        nfe=best.table(sde).nfe,
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
    """Raise `ValueError` if the solver cannot be fitted."""
    if solver is not None and solver.stochastic:
        raise ValueError(f"solver: expected a deterministic one, got {type(solver).__name__}")
    if weights and solver is not None and solver.table(model.sde).nfe != solver.steps:
        raise ValueError(f"weights: expected a solver with one evaluation a step, got {type(solver).__name__}")


def _fit_times(
    best: TableSolver, reference: Reference, iterations: int, rate: float, tell: Callable[[int, TableSolver], None]
) -> tuple[TableSolver, Tensor]:
    """Fit the times of a solver. Return the solver on these times, and the logarithms of its steps in log-SNR."""
    sde = reference.model.sde
    log_snr = sde.log_snr(best.times(sde))
    first = float(log_snr[0])

    def on_times(steps: Tensor) -> TableSolver:
        return dataclasses.replace(best, grid=tuple(grid_of(sde, first, steps).tolist()), eps=None)

    def loss(steps: Tensor) -> Tensor:
        return reference.loss(best.table(sde, grid_of(sde, first, steps)))

    tuned, (steps,) = descend([log_snr.diff().log()], loss, on_times, reference.score, iterations, rate, tell)
    return tuned, steps


def _fit_weights(
    best: TableSolver,
    steps: Tensor,
    reference: Reference,
    iterations: int,
    rate: float,
    tell: Callable[[int, NonStationary], None],
) -> NonStationary:
    """Fit a solver with its own weights for every step, starting from `best` on fitted times."""
    sde = reference.model.sde
    first = float(sde.log_snr(best.times(sde)[0]))
    points = Points(sde, grid_of(sde, first, steps))
    # The rows for a state at the first time, at which `Around` begins.
    from_first = dataclasses.replace(best, begin="T")
    around = Around(sde, first, steps, *canonical(from_first.table(sde, points.t), points))

    def loss(*parameters: Tensor) -> Tensor:
        return reference.loss(around.table(*parameters))

    return descend(around.origin(), loss, around.solver, reference.score, iterations, rate, tell)[0]
