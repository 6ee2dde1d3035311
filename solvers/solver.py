"""What a solver is, what it asks of a model, and `sample`, which puts the two together."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from sde import GaussianSDE, tweedie
from solvers.grid import Grid, Points, reach, time_grid
from solvers.noise import PRIOR, STEPS, Noise
from solvers.table import Row, Table, by_step, execute, is_correction

Final = Literal["denoise", "stop", "half_step"]
OnStep = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Denoises(Protocol):
    """All that a solver asks of a model: its process, and D(x, t) for x `[batch, ...]` and scalar t.

    An object with `score(x, t)` in place of `denoise` will do; `sde.FunctionModel` makes one of
    any function.
    """

    sde: GaussianSDE

    def denoise(self, x: Tensor, t: Tensor) -> Tensor: ...


def denoiser_of(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, t) of a model, from its score where it has no `denoise`.

    Raises:
        TypeError: if it has neither, or no `sde`.
    """
    if not hasattr(model, "sde"):
        raise TypeError(f"model: expected an object with `sde` and `denoise(x, t)`, got {type(model).__name__}")
    if hasattr(model, "denoise"):
        return model.denoise
    if hasattr(model, "score"):
        return lambda x, t: tweedie(model.score(x, t), x, t, model.sde, "score", "denoised")
    raise TypeError(
        f"model: expected `denoise(x, t)` or `score(x, t)`, {type(model).__name__} has neither; "
        "wrap a function with sde.FunctionModel(function, sde, predicts=...)"
    )


def score_of(model: Any) -> Callable[[Tensor, Any], Tensor]:
    """s(x, t) of a model, from its denoiser where it has no `score`. The process may be any SDE then.

    Raises:
        TypeError: if it has neither, or no `sde`.
    """
    if hasattr(model, "sde") and hasattr(model, "score"):
        return model.score
    denoise = denoiser_of(model)
    return lambda x, t: tweedie(denoise(x, t), x, t, model.sde, "denoised", "score")


class Solver(ABC):
    """Carries a state from T to the end of a process, backwards.

    Attributes:
        stochastic: whether it draws noise on the way.
    """

    stochastic: bool = False

    @abstractmethod
    def solve(self, model: Any, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """The state at the end, from `x` `[batch, ...]` at T.

        Args:
            model: has `sde` and `denoise(x, t)`.
            x: the state at T.
            noise: where a stochastic solver takes its random numbers from.
            on_step: called with (x, t) after each step; returns the state to go on from.
        """


def require_steps(steps: Any, least: int = 1) -> None:
    """Raise `ValueError` unless `steps` is an integer of at least `least`."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"steps: expected an integer of at least {least}, got {steps!r}")


@dataclass(frozen=True, kw_only=True)
class TableSolver(Solver):
    """A solver on a fixed grid: a short function from (process, grid) to a table.

    A subclass gives `rows(points)`, the steps between the points of a grid; this class makes the
    grid, adds the last step and runs the table.

    Args:
        steps: number of steps, the last one to the data included.
        grid: "uniform", "quadratic", "log_snr", "karras", "angle", the `steps + 1` (for final="stop") or
            `steps` times themselves, or a function (sde, intervals, first, last) -> times.
        final: how it ends. "denoise": the last of the steps is D(x, eps), one evaluation.
            "half_step": instead x/alpha + (sigma/alpha)^2/2 score, which is (x/alpha + D)/2, of second
            order in sigma for the same evaluation. "stop": at eps, still with noise sigma(eps).
        eps: the time at which the grid ends; the process's own by default. "auto" is for few steps N: where
            sigma/alpha = d min(N^(-4/3), 16/N^2), so that none is wasted close to the data, which `final` reaches
            with an error of the order of the solver's own; but not before the process's own.
        data_std: the data's standard deviation d, for the grids and coordinates that ask for it; the model's own
            by default, or else 1.

    Raises:
        ValueError: naming the argument that makes no sense.
    """

    steps: int = 20
    grid: Grid = "karras"
    final: Final = "denoise"
    eps: float | Literal["auto"] | None = None
    data_std: float | None = None

    claimed_order: ClassVar[int] = 1
    """Global order of accuracy, for small steps; `solvers.order` measures it."""

    def __post_init__(self) -> None:
        if self.final not in get_args(Final):
            raise ValueError(f"final: expected one of {', '.join(get_args(Final))}, got {self.final!r}")
        require_steps(self.steps)
        if isinstance(self.eps, str) and self.eps != "auto":
            raise ValueError(f"eps: expected a time, 'auto' or None, got {self.eps!r}")

    @abstractmethod
    def rows(self, points: Points) -> Iterable[Row]:
        """The rows that lead from each point of the grid to the next."""

    def times(self, sde: GaussianSDE) -> Tensor:
        """The grid's times, from T down to eps.

        Raises:
            ValueError: if `eps` is not in [0, T), or sigma is 0 there.
        """
        eps = self.end(sde)
        if not (0 <= eps < sde.T and float(sde.sigma(eps)) > 0):
            raise ValueError(f"eps: expected a time in [0, T = {sde.T:g}) at which sigma is positive, got {eps:g}")
        intervals = self.steps - (self.final != "stop")
        if intervals == 0:
            return torch.tensor([sde.T], dtype=torch.float64)
        return time_grid(self.grid, sde, intervals, eps, self.data_std or 1.0)

    def end(self, sde: GaussianSDE) -> float:
        """The time at which the grid ends."""
        if self.eps is None:
            return sde.eps
        if self.eps != "auto":
            return self.eps
        ratio = (self.data_std or 1.0) * reach(self.steps)
        return max(sde.eps, min(float(sde.t_from_log_snr(-2 * math.log(ratio))), 0.5 * sde.T))

    def table(self, sde: GaussianSDE, times: Tensor | None = None) -> Table:
        """The solver as a table for a process, on its own grid or on given times."""
        points = Points(sde, self.times(sde) if times is None else times)
        rows = list(self.rows(points)) if len(points) > 1 else []
        if self.final == "stop":
            return Table(tuple(rows))
        ((at, alpha),) = by_step(points.t[-1:], points.alpha[-1:])
        # The last evaluation corrects the state as well, where a solver says so.
        last = rows.pop() if rows and is_correction(rows[-1]) else Row(at, 1.0, (0.0,), at)
        # For normal data the half step is the nearer of the two up to sigma/alpha = sqrt(8) d; beyond (a grid of one
        # point, T) it would keep half of the noise.
        near = float(points.ratio[-1].detach()) <= math.sqrt(8) * (self.data_std or 1.0)
        if self.final == "half_step" and near:
            # (x + sum_j m_j P_j)/(2 alpha) + D/2, with D = P_0 - slope x
            newest, *others = (0.5 / alpha * weight for weight in last.weights)
            rows.append(Row(0.0, 0.5 / alpha - 0.5 * last.slope, (newest + 0.5, *others), at, last.slope))
        else:
            rows.append(Row(0.0, 0.0, (1.0,), at))
        return Table(tuple(rows))

    def solve(self, model: Any, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        return execute(self.for_model(model).table(model.sde), denoiser_of(model), x, noise, on_step)

    def for_model(self, model: Any) -> TableSolver:
        """This solver with what it wants to know of the model, the data's width, filled in."""
        if self.data_std is not None:
            return self
        return dataclasses.replace(self, data_std=float(getattr(model, "data_std", 1.0)))

    def with_budget(self, nfe: int, sde: GaussianSDE) -> TableSolver:
        """This solver with as many steps as `nfe` evaluations pay for.

        Raises:
            ValueError: if they do not pay for one step.
        """
        for steps in range(nfe + 1, 0, -1):
            try:
                other = dataclasses.replace(self, steps=steps)
                if other.table(sde).nfe <= nfe:
                    return other
            except ValueError:
                continue
        raise ValueError(f"nfe: {nfe} evaluations do not pay for a step of {type(self).__name__}")


class Trajectory(NamedTuple):
    """The states a solver passed through.

    Attributes:
        x: the last state, `[batch, ...]`.
        times: from T to the end, `[n]`; 0 stands for the data.
        states: `[n, batch, ...]`, on the host.
    """

    x: Tensor
    times: Tensor
    states: Tensor


@dataclass
class Recorder:
    """Keeps the states of a solve on the host, as an `on_step`."""

    times: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(torch.as_tensor(t).detach().cpu())
        self.states.append(x.detach().to("cpu", copy=True))
        return x


def place_of(model: Any) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of a model's first floating-point tensor, else torch's defaults."""
    tensors = model.parameters() if isinstance(model, torch.nn.Module) else vars(model).values()
    for value in tensors:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.device, value.dtype
    return torch.get_default_device(), torch.get_default_dtype()


@torch.no_grad()
def sample(
    model: Any,
    solver: Solver,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    *,
    x_T: Tensor | None = None,
    trajectory: bool = False,
    first: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Samples of a model by a solver.

    Sample i of a seed is the same whatever the batch: draws are per sample.

    Args:
        model: has `sde` and `denoise(x, t)` (or `score`).
        solver: how to go from T to the data.
        shape: `[batch, ...]` of the samples; not needed with `x_T`.
        seed: of the starting points and of the solver's noise.
        x_T: starting points, in place of draws from the prior.
        trajectory: also return the states on the way.
        first: index of the first sample, when the batch is a part of a larger one.
        device, dtype: those of the model by default.

    Returns:
        x `[batch, ...]`, or a `Trajectory`.

    Raises:
        ValueError: if neither shape nor x_T is given, or both with different shapes.
        TypeError: if the model has not what a solver asks for.
    """
    denoiser_of(model)
    if x_T is not None:
        if shape is not None and tuple(shape) != tuple(x_T.shape):
            raise ValueError(f"shape: expected that of x_T, {list(x_T.shape)}, or none, got {list(shape)}")
        x = x_T
    elif shape is None or len(shape) < 2:
        raise ValueError(f"shape: expected (batch, ...), or give x_T; got {shape}")
    else:
        of_device, of_dtype = place_of(model)
        device = of_device if device is None else device
        dtype = of_dtype if dtype is None else dtype
        start = Noise(seed, tuple(shape), first=first, stream=PRIOR, dtype=dtype, device=device)()
        x = model.sde.prior.from_noise(start)
    noise = None
    if solver.stochastic:
        noise = Noise(seed, tuple(x.shape), first=first, stream=STEPS, dtype=x.dtype, device=x.device)
    if not trajectory:
        return solver.solve(model, x, noise)
    recorder = Recorder()
    recorder(x, torch.tensor(model.sde.T, dtype=x.dtype))
    x = solver.solve(model, x, noise, recorder)
    return Trajectory(x, torch.stack(recorder.times), torch.stack(recorder.states))
