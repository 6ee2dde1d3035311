"""The probability flow as an ODE dz/du = v(z, u), in coordinates z and u that are chosen for integration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Protocol, cast

from torch import Tensor

from backdrift.sde.value_types import Range
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.time_flow import TimeFlow
from backdrift.solvers.model import Denoises, ModelLike
from backdrift.solvers.tables.grid import Grid


class Flow(Protocol):
    """A probability flow in coordinates: a state z and a time u, which rises from the data to the noise.

    Attributes:
        first: u at the data's end.
        last: u at the noise's end, t = T.
        eps: t at the data's end.
    """

    first: float
    last: float
    eps: float

    def enter(self, x: Tensor) -> tuple[Tensor, float]:
        """z at u = first, from x at t = eps, and log|dz/dx| of one component there."""

    def leave(self, z: Tensor) -> tuple[Tensor, float]:
        """x at t = T, from z at u = last, and log|dz/dx| of one component there."""

    def velocity(self, z: Tensor, u: Any) -> Tensor:
        """dz/du, shaped like z.

        Args:
            z: the state, `[batch, ...]`.
            u: the time, one number for all samples or one for each, `[batch]`. It can also be one of `places`.
        """

    def divergence(self, z: Tensor, u: Any) -> Tensor | None:
        """The divergence of the velocity, `[batch]`, or None if it has no closed form. u is as for `velocity`."""

    def places(self, u: Tensor, z: Tensor) -> Sequence[Any]:
        """For each of k times u, what `velocity` takes in place of u.

        It holds the coefficients of the velocity that depend on the time only. Computing them for all k times at once
        saves many small operations.

        Args:
            u: the times, `[k]`, or `[k, batch]` with one time for each sample.
            z: a state with the shape, dtype and device of those that `velocity` will be given.
        """

    def time(self, u: float) -> float:
        """The time t of the process at u."""

    def at_time(self, t: float) -> float:
        """The inverse of `time`: u at the time t of the process."""

    def scale(self, u: float) -> float:
        """The factor x/z at u."""

    def middle(self, z: Tensor) -> tuple[float, Tensor]:
        """A time u in the middle of the path, and states like those of the path there, made of the states z at its
        beginning."""

    def select(self, indices: Tensor) -> Flow:
        """The flow of the samples at `indices` only. It differs if the model holds a value for each sample."""

    def nodes(self, grid: Grid | None, steps: int) -> list[float]:
        """The `steps` + 1 values of u on a time grid, rising. Without a grid, the flow's own is taken."""

    def rule(self, count: int) -> list[tuple[float, float]]:
        """The nodes u, rising, and the weights of a quadrature over all u, with `count` nodes."""


def flow(model: ModelLike, data_std: float | None = None, eps: float | None = None) -> Flow:
    """The probability flow of a model: `AngleFlow` for a Gaussian process, and `TimeFlow` for any other.

    Args:
        model: a model with `sde`, and `denoise(x, t)` or `score(x, t)`.
        data_std: the width d of the data for `AngleFlow`.
        eps: the time at the data's end. By default it is the process's own `eps`.

    Raises:
        ValueError: as for `AngleFlow` and `TimeFlow`.
    """
    if model.sde.has_denoiser:
        return AngleFlow(cast(Denoises, model), data_std, eps)
    return TimeFlow(model, eps)


SaveAt = Annotated[int, Range(least=1, most=100_000)] | Sequence[float]
"""Where a trajectory has states: at so many times of the flow's own grid, or at a list of times."""


def interior(path: Flow, save_at: SaveAt) -> list[float]:
    """The values of u at which an adaptive solver calls `on_step`. They fall from below `last` to `first`.

    Args:
        path: the flow.
        save_at: the number of times, which then are those of the flow's own grid, or a list of times that fall from
            below T to eps.

    Raises:
        ValueError: if the times do not fall within [eps, T).
    """
    if isinstance(save_at, int):
        return path.nodes(None, save_at)[-2::-1]
    times = [float(t) for t in save_at]
    fall = all(a > b for a, b in pairwise([path.time(path.last), *times]))
    if not fall or (times and times[-1] < path.eps):
        interval = f"[eps = {path.eps:.6g}, T = {path.time(path.last):.6g})"
        raise ValueError(f"save_at: expected times that fall within {interval}, got {times}")
    return [*(path.at_time(t) for t in times if t > path.eps), path.first]
