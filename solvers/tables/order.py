"""Order certificates: how fast a solver's error falls with its step, measured against exact answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.sde import VP, GaussianSDE, as_time
from backdrift.solvers.tables.table import Table, execute
from backdrift.solvers.tables.table_solver import TableSolver

STEPS = (32, 128, 512, 1024)
"""Numbers of steps at which errors are measured."""

RATIOS = (4.0, 0.1)
"""sigma/alpha where measurements start and end: around the width of the data, where all the action is."""

ROUNDING = 3e-12
"""Errors below this are rounding and say nothing of an order."""


@dataclass(frozen=True)
class TwoModes:
    """The mixture 1/2 N(-m, c^2) + 1/2 N(m, c^2) on the line under a process: its flow is known exactly.

    On the line the probability flow keeps quantiles, so it carries x_t to the x_s with F_s(x_s) = F_t(x_t), F
    the distribution function of the noised mixture.

    Args:
        sde: the process.
        mean: m.
        std: c.
    """

    sde: GaussianSDE
    mean: float = 1.0
    std: float = 0.4

    def _at(self, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        return alpha, sigma, (sigma.square() + (alpha * self.std).square()).sqrt()

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma, width = self._at(as_time(t, x))
        tilt = torch.tanh(alpha * self.mean * x / width.square())
        return (sigma.square() * self.mean * tilt + alpha * self.std**2 * x) / width.square()

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """Where the probability flow carries `x` from t to s, by bisection on the smaller tail."""

        def tails(x: Tensor, time: float) -> Tensor:
            alpha, _, width = self._at(time)
            shift = alpha * self.mean
            z = torch.stack([(x - shift) / width, (x + shift) / width])
            return torch.logsumexp(torch.special.log_ndtr(z), 0)

        # By symmetry only the lower tail is needed, where log F keeps its digits.
        target = tails(-x.abs(), t)
        low, high = torch.full_like(x, -60.0), torch.zeros_like(x)
        for _ in range(200):
            middle = (low + high) / 2
            above = tails(middle, s) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return -(low + high) / 2 * x.sign()


@dataclass(frozen=True)
class Certificate:
    """An order of convergence and what it was measured from.

    Attributes:
        kind: "trajectory" (against the exact flow of a mixture), "weak" (the variance that a table
            makes of normal data, exact and without sampling) or "strong" (one path, refined).
        claimed: what the solver says.
        measured: the slope of log(error) over log(steps) between the two finest grids above rounding.
        steps: numbers of steps.
        errors: the error at each.
        nfe: evaluations at the last number of steps, for one step.
    """

    kind: str
    claimed: float
    measured: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    nfe: float

    def __str__(self) -> str:
        rows = " ".join(f"{n}:{e:.2e}" for n, e in zip(self.steps, self.errors, strict=True))
        order = f"{self.kind} order {self.measured:.2f} (claimed {self.claimed:g})"
        return f"{order}, {self.nfe:.2f} NFE a step; errors {rows}"


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order at the two finest grids whose errors stand above rounding; infinite where none do."""
    kept = [(n, e) for n, e in zip(steps, errors, strict=True) if e > ROUNDING]
    if len(kept) < 2:
        return math.inf
    (n, coarse), (m, fine) = kept[-2:]
    return math.log(coarse / fine) / math.log(m / n)


def certify(
    solver: TableSolver,
    sde: GaussianSDE | None = None,
    *,
    steps: Sequence[int] = STEPS,
    ratios: tuple[float, float] = RATIOS,
) -> Certificate:
    """Measure a solver's order: on trajectories where it is deterministic, in the weak sense where not.

    Args:
        solver: any table solver, of the package or your own.
        sde: the process; VP by default.
        steps: numbers of steps, each on a grid even in log-SNR.
        ratios: sigma/alpha at the start and the end.
    """
    sde = VP() if sde is None else sde
    measure = weak_error if solver.stochastic else trajectory_error
    return _certificate("weak" if solver.stochastic else "trajectory", solver, sde, steps, ratios, measure)


def certify_strong(
    solver: TableSolver,
    sde: GaussianSDE | None = None,
    *,
    claimed: float = 1.0,
    steps: Sequence[int] = STEPS,
    ratios: tuple[float, float] = RATIOS,
) -> Certificate:
    """Measure a stochastic solver's strong order: against itself on a grid 8 times finer than the finest of `steps`,
    on the same Brownian path. For solvers with one noise a step."""
    sde = VP() if sde is None else sde
    finest = 8 * max(steps)

    def error(solver: TableSolver, sde: GaussianSDE, times: Tensor) -> float:
        return strong_error(solver, sde, times, refine=finest // (len(times) - 1))

    return dataclasses.replace(_certificate("strong", solver, sde, steps, ratios, error), claimed=claimed)


def _certificate(
    kind: str,
    solver: TableSolver,
    sde: GaussianSDE,
    steps: Sequence[int],
    ratios: tuple[float, float],
    error: Callable[[TableSolver, GaussianSDE, Tensor], float],
) -> Certificate:
    solver = dataclasses.replace(solver, final="stop")
    errors = tuple(error(solver, sde, log_snr_times(sde, n, ratios)) for n in steps)
    nfe = solver.table(sde, log_snr_times(sde, steps[-1], ratios)).nfe / steps[-1]
    return Certificate(kind, solver.claimed_order, slope(steps, errors), tuple(steps), errors, nfe)


def log_snr_times(sde: GaussianSDE, steps: int, ratios: tuple[float, float]) -> Tensor:
    """`steps` + 1 times, even in log-SNR, between two values of sigma/alpha."""
    first, last = (-2 * math.log(ratio) for ratio in ratios)
    return sde.t_from_log_snr(torch.linspace(first, last, steps + 1, dtype=torch.float64))


def trajectory_error(solver: TableSolver, sde: GaussianSDE, times: Tensor) -> float:
    """RMS distance to the exact flow of `TwoModes`, over starting points at quantiles of p_T."""
    modes = TwoModes(sde)
    start, end = float(times[0]), float(times[-1])
    alpha, _, width = modes._at(start)
    x = (width + alpha) * torch.tensor([-1.6, -0.9, -0.4, -0.15, 0.25, 0.6, 1.1, 2.0], dtype=torch.float64)
    x = x.unsqueeze(1)
    ends = execute(solver.for_model(modes).table(sde, times), modes.denoise, x)
    return float((ends - modes.flow(x, start, end)).square().mean().sqrt())


def weak_error(solver: TableSolver, sde: GaussianSDE, times: Tensor, stds: Sequence[float] = (0.3, 1.0, 1.7)) -> float:
    """Largest relative error of the variance that a table makes of normal data, exactly.

    For normal data the denoiser is linear, and so is the whole table: running it on the unit vectors of
    (x_T, z_1, z_2, ...) gives the coefficient of each in the result, and their squares add up to its variance.
    """
    worst = 0.0
    for std in stds:
        table = solver.table(sde, times)
        ends = coefficients(table, sde, std, times)
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        variance = sigma.square() + (alpha * std).square()
        made = float(ends[0].square() * variance[0] + ends[1:].square().sum())
        worst = max(worst, abs(made / float(variance[-1]) - 1))
    return worst


def coefficients(table: Table, sde: GaussianSDE, std: float, times: Tensor) -> Tensor:
    """The coefficients of x_T and of every z in the result of a table, for normal data: `[1 + draws]`."""
    draws = sum(bool(row.noise) for row in table.numbers().rows)
    unit = torch.eye(1 + draws, dtype=torch.float64)
    kicks = iter(unit[1:])

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return alpha * std**2 / (sigma.square() + (alpha * std).square()) * x

    return execute(table, denoise, unit[0], lambda: next(kicks))


def strong_error(solver: TableSolver, sde: GaussianSDE, times: Tensor, refine: int, paths: int = 1000) -> float:
    """RMS distance between a solver and itself on a `refine` times finer grid, on the same Brownian path.

    The noise of a coarse step is what the fine steps within it add up to as the table carries them on.
    """
    modes = TwoModes(sde)
    log_snr = sde.log_snr(times)
    share = torch.linspace(0, 1, refine + 1, dtype=torch.float64)[:-1]
    fine = torch.cat([(log_snr[:-1, None] + log_snr.diff()[:, None] * share).flatten(), log_snr[-1:]])
    fine_times = sde.t_from_log_snr(fine)
    generator = torch.Generator().manual_seed(0)
    n = len(times) - 1
    z = torch.randn(n * refine, paths, 1, generator=generator, dtype=torch.float64)
    x = torch.linspace(-2, 2, paths, dtype=torch.float64).unsqueeze(1) * float(modes._at(times[0])[2])

    table = solver.table(sde, fine_times).numbers()
    kicks = iter(z)
    exact = execute(table, modes.denoise, x, lambda: next(kicks))
    rows = [row for row in table.rows if row.noise]
    coarse = torch.zeros(n, paths, 1, dtype=torch.float64)
    for k in range(n):
        total = 0.0
        for j in range(k * refine, (k + 1) * refine):
            # One fine step on: what was there is carried, and fresh noise comes in.
            coarse[k] = coarse[k] * rows[j].carry + rows[j].noise * z[j]
            total = total * rows[j].carry ** 2 + rows[j].noise ** 2
        coarse[k] /= math.sqrt(total)
    kicks = iter(coarse)
    ends = execute(solver.table(sde, times), modes.denoise, x, lambda: next(kicks))
    return float((ends - exact).square().mean().sqrt())
