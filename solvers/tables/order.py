"""Order certificates: measure how fast a solver's error falls with its step, against exact answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.sde import VP, GaussianSDE, as_time
from backdrift.solvers.solver import require_solver
from backdrift.solvers.tables.table import Table, execute
from backdrift.solvers.tables.table_solver import TableSolver

STEPS = (32, 128, 512, 1024)
"""The numbers of steps at which errors are measured by default."""

RATIOS = (4.0, 0.1)
"""The values of sigma/alpha at which measurements start and end by default. The width of the data lies between them,
where the flow changes most."""

ROUNDING = 3e-12
"""Errors below this value are rounding errors, so they are not used to measure an order."""


@dataclass(frozen=True)
class TwoModes:
    """The mixture 1/2 N(-m, c^2) + 1/2 N(m, c^2) in one dimension, whose probability flow is known exactly.

    In one dimension the probability flow keeps quantiles. It carries x_t to the x_s for which F_s(x_s) = F_t(x_t),
    where F is the distribution function of the noised mixture.

    Args:
        sde: the process.
        mean: m.
        std: c.
    """

    sde: GaussianSDE
    mean: float = 1.0
    std: float = 0.4

    def _at(self, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        return alpha, sigma, (sigma.square() + (alpha * self.std).square()).sqrt()

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma, width = self._at(as_time(t, x))
        tilt = torch.tanh(alpha * self.mean * x / width.square())
        return (sigma.square() * self.mean * tilt + alpha * self.std**2 * x) / width.square()

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """The state at s to which the probability flow carries `x` from t, by bisection on the smaller tail."""

        def tails(x: Tensor, time: float) -> Tensor:
            alpha, _, width = self._at(time)
            shift = alpha * self.mean
            z = torch.stack([(x - shift) / width, (x + shift) / width])
            return torch.logsumexp(torch.special.log_ndtr(z), 0)

        # The mixture is symmetric, so the lower tail is enough. There log F keeps its digits.
        target = tails(-x.abs(), t)
        low, high = torch.full_like(x, -60.0), torch.zeros_like(x)
        for _ in range(200):
            middle = (low + high) / 2
            above = tails(middle, s) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return -(low + high) / 2 * x.sign()


@dataclass(frozen=True)
class Certificate:
    """A measured order of convergence, with the errors that it was measured from.

    Attributes:
        kind: what the errors are. "trajectory": the distance to the exact flow of a mixture. "weak": the error of the
            variance for normal data, computed without sampling. "strong": the distance to a solve with finer steps on
            the same Brownian path.
        claimed: the order that the solver claims.
        measured: minus the slope of log(error) over log(steps), between the two finest grids whose errors are above
            rounding.
        steps: the numbers of steps.
        errors: the error for each number of steps.
        nfe: the number of evaluations per step, at the last number of steps.
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
    """The order measured on the two finest grids whose errors are above rounding, or infinity if there are not two."""
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
    """Measure the order of a solver: on trajectories if it is deterministic, and in the weak sense if it is stochastic.

    Args:
        solver: a table solver, from this package or your own.
        sde: the process. By default it is VP.
        steps: the numbers of steps to measure errors at. The grids are even in log-SNR.
        ratios: sigma/alpha at the start and at the end of the solve.
    """
    require_solver(solver)
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
    """Measure the strong order of a stochastic solver that draws one noise in each step.

    The solver is compared with itself on a grid 8 times finer than the finest of `steps`, on the same Brownian path.

    Args:
        solver: a stochastic table solver.
        sde: the process. By default it is VP.
        claimed: the strong order that is claimed.
        steps: the numbers of steps to measure errors at. The grids are even in log-SNR.
        ratios: sigma/alpha at the start and at the end of the solve.
    """
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
    """The `steps` + 1 times with even steps in log-SNR between two values of sigma/alpha."""
    first, last = (-2 * math.log(ratio) for ratio in ratios)
    return sde.t_from_log_snr(torch.linspace(first, last, steps + 1, dtype=torch.float64, device="cpu"))


def trajectory_error(solver: TableSolver, sde: GaussianSDE, times: Tensor) -> float:
    """The root mean square distance to the exact flow of `TwoModes`, over eight starting points across p_T."""
    modes = TwoModes(sde)
    start, end = float(times[0]), float(times[-1])
    alpha, _, width = modes._at(start)
    x = (width + alpha) * torch.tensor(
        [-1.6, -0.9, -0.4, -0.15, 0.25, 0.6, 1.1, 2.0], dtype=torch.float64, device="cpu"
    )
    x = x.unsqueeze(1)
    ends = execute(solver.for_model(modes).table(sde, times), modes.denoise, x)
    return float((ends - modes.flow(x, start, end)).square().mean().sqrt())


def weak_error(solver: TableSolver, sde: GaussianSDE, times: Tensor, stds: Sequence[float] = (0.3, 1.0, 1.7)) -> float:
    """The largest relative error of the variance of a solver's samples, over normal data of several widths.

    The variance is computed exactly, without sampling. For normal data the denoiser is linear in x, so the result of
    the table is a linear combination of x_T and all the noises z. The sum of its squared coefficients, weighted by the
    variances, is the variance.
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
    """The coefficients of x_T and of every noise z in the result of a table for normal data, `[1 + draws]`."""
    draws = sum(bool(row.noise) for row in table.numbers().rows)
    unit = torch.eye(1 + draws, dtype=torch.float64, device="cpu")
    kicks = iter(unit[1:])

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return alpha * std**2 / (sigma.square() + (alpha * std).square()) * x

    return execute(table, denoise, unit[0], lambda: next(kicks))


def strong_error(solver: TableSolver, sde: GaussianSDE, times: Tensor, refine: int, paths: int = 1000) -> float:
    """The root mean square distance between a solver and itself on a `refine` times finer grid, on one Brownian path.

    The noise of a coarse step is the sum of the noises of the fine steps within it, each multiplied by the carries of
    the fine steps after it.
    """
    modes = TwoModes(sde)
    log_snr = sde.log_snr(times)
    share = torch.linspace(0, 1, refine + 1, dtype=torch.float64, device="cpu")[:-1]
    fine = torch.cat([(log_snr[:-1, None] + log_snr.diff()[:, None] * share).flatten(), log_snr[-1:]])
    fine_times = sde.t_from_log_snr(fine)
    generator = torch.Generator().manual_seed(0)
    n = len(times) - 1
    z = torch.randn(n * refine, paths, 1, generator=generator, dtype=torch.float64, device="cpu")
    x = torch.linspace(-2, 2, paths, dtype=torch.float64, device="cpu").unsqueeze(1) * float(modes._at(times[0])[2])

    table = solver.table(sde, fine_times).numbers()
    kicks = iter(z)
    exact = execute(table, modes.denoise, x, lambda: next(kicks))
    rows = [row for row in table.rows if row.noise]
    coarse = torch.zeros(n, paths, 1, dtype=torch.float64, device="cpu")
    for k in range(n):
        total = 0.0
        for j in range(k * refine, (k + 1) * refine):
            # One more fine step: the sum so far is carried along, and new noise is added.
            coarse[k] = coarse[k] * rows[j].carry + rows[j].noise * z[j]
            total = total * rows[j].carry ** 2 + rows[j].noise ** 2
        coarse[k] /= math.sqrt(total)
    kicks = iter(coarse)
    ends = execute(solver.table(sde, times), modes.denoise, x, lambda: next(kicks))
    return float((ends - exact).square().mean().sqrt())
