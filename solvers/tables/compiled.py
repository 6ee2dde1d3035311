"""A solver on a fixed grid whose whole loop is one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from backdrift.sde import SDE, GaussianSDE
from backdrift.solvers.compilation import CompiledFunction, compiled_once
from backdrift.solvers.model import ModelLike, denoiser_of, select
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, require_noise
from backdrift.solvers.tables.table import Denoise, Row, factors_of, merged, run, sent
from backdrift.solvers.tables.table_solver import TableSolver

Loop = Callable[[Denoise, Tensor, Tensor, Tensor | None], Tensor]
"""(denoise, x, factors, draws) -> the last state. `draws` `[n, batch, ...]` are None for a table without noise."""


@dataclass(frozen=True)
class Compiled(Solver):
    """A solver on a fixed grid, with its loop and all its network calls compiled into one graph.

    The samples are those of the solver itself, up to rounding. The first solve compiles, which takes from seconds to
    minutes: the more rows the table has, and the larger the network, the longer. Later solves with this object take the
    same graph as long as the table and the shape of a sample stay the same. The model may be another of the same
    structure, such as one with other classes. Compiling pays where a network is small, so that most of the time goes
    into starting its operations.

    A batch smaller than one that was compiled before is filled up with copies of its samples, which changes no sample.
    A stochastic solver draws all its noise before the loop, in memory for as many states as it has draws. `on_step` and
    `trajectory` are refused, since a graph does not stop on its way.

    On CUDA the graph is captured (mode "reduce-overhead" of `torch.compile`), so that one launch starts all of it.

    Args:
        solver: the solver.

    Raises:
        ValueError: if `solver` is not a `TableSolver`.

    Example:
        >>> fast = Compiled(Adams(steps=20))
        >>> first, second = (sample(model, fast, (256, 2), first=i) for i in (0, 256))  # doctest: +SKIP
    """

    solver: Solver
    _loops: dict[Any, dict[int, Loop]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.solver, TableSolver):
            raise ValueError(
                "compile: expected a solver on a fixed grid, such as Adams or DDIM, got "
                f"{type(self.solver).__name__}, whose steps are not known before the solve"
            )

    @property
    def stochastic(self) -> bool:
        return self.solver.stochastic

    def require_process(self, sde: SDE) -> None:
        self.solver.require_process(sde)

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """See `Solver.solve`.

        Raises:
            ValueError: as the solver itself; if `on_step` is given; or if torch.compile cannot compile the loop, with
                its reason.
        """
        if on_step is not None:
            raise ValueError(
                "on_step: expected None, and no trajectory, since a compiled solve does not stop on its way; "
                f"got one, for which there is {type(self.solver).__name__} without Compiled"
            )
        self.require_process(model.sde)
        denoise = denoiser_of(model)  # checks the model before anything is compiled
        solver = cast(TableSolver, self.solver)
        rows = tuple(merged(solver.for_model(model).table(cast(GaussianSDE, model.sde)).numbers().rows))
        draws = None
        if any(row.noise for row in rows):
            noise = require_noise(self.solver, noise)
            draws = torch.stack([noise() for row in rows if row.noise])
        factors = torch.stack(list(sent(factors_of(rows), x)))
        size, loops = len(x), self._loops.setdefault((rows, x.shape[1:], x.dtype, x.device), {})
        full = min((found for found in loops if found >= size), default=size)
        if full > size:
            filled = torch.arange(full, device=x.device) % size
            x, denoise = x[filled], denoiser_of(select(model, filled))
            draws = None if draws is None else draws[:, filled]
        if full not in loops:
            loops[full] = CompiledFunction(_loop_of(rows), x.device)
        return loops[full](denoise, x, factors, draws)[:size]


def _loop_of(rows: Sequence[Row]) -> Loop:
    """The loop through some rows, as a function of tensors alone."""

    def loop(denoise: Denoise, x: Tensor, factors: Tensor, draws: Tensor | None) -> Tensor:
        ahead = iter(()) if draws is None else iter(draws.unbind())
        return run(rows, factors.unbind(), lambda x, t: _denoised(denoise, x, t), x, lambda: next(ahead))

    return loop


@compiled_once
def _denoised(denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """The network's call, the same in every row."""
    return denoise(x, t)
