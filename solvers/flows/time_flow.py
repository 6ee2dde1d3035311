"""The probability flow of any process in its own coordinates, the state x and the time t."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.sde.process import wide
from backdrift.solvers.model import ModelLike, score_of, select
from backdrift.solvers.quadrature import gauss_legendre
from backdrift.solvers.solver import end_time
from backdrift.solvers.tables.grid import Grid


class TimeFlow:
    r"""The probability flow of any process in its own coordinates, with z = x and u = t:

    .. math:: dx/dt = f - (div(g g^T) + g g^T score) / 2.

    Song et al. (2021), eq. 17.

    Args:
        model: a model with `sde`, any SDE, and `score(x, t)` or `denoise(x, t)`.
        eps: the time at the data's end. By default it is the process's own `eps`.

    Raises:
        ValueError: if `eps` is not in [0, T).
    """

    def __init__(self, model: ModelLike, eps: float | None = None) -> None:
        self.eps = self.first = end_time(model.sde, eps)
        self.last = float(model.sde.start)
        self.model, self.reverse = model, model.sde.reverse(score_of(model), stochasticity=0.0)
        self.power = model.sde.time_power

    def enter(self, x: Tensor) -> tuple[Tensor, float]:
        return x, 0.0

    def leave(self, z: Tensor) -> tuple[Tensor, float]:
        return z, 0.0

    def velocity(self, z: Tensor, u: float | Tensor) -> Tensor:
        return self.reverse.drift(z, wide(u).clamp(self.first, self.last).to(z, non_blocking=True))

    def divergence(self, z: Tensor, u: float | Tensor) -> Tensor | None:
        return None

    def places(self, u: Tensor, z: Tensor) -> Sequence[Tensor]:
        return u.unbind()

    def time(self, u: float) -> float:
        return u

    def at_time(self, t: float) -> float:
        return t

    def scale(self, u: float) -> float:
        return 1.0

    def middle(self, z: Tensor) -> tuple[float, Tensor]:
        return (self.first + self.last) / 2, z

    def select(self, indices: Tensor) -> TimeFlow:
        chosen = select(self.model, indices)
        return self if chosen is self.model else TimeFlow(chosen, self.eps)

    def nodes(self, grid: Grid | None, steps: int) -> list[float]:
        """Times with even steps in t^(1/p), with p the `time_power` of the process. `grid` is not used here."""
        ends = self.first ** (1 / self.power), self.last ** (1 / self.power)
        inner = torch.linspace(*ends, steps + 1, dtype=torch.float64, device="cpu").pow(self.power)[1:-1].tolist()
        return [self.first, *inner, self.last]

    def rule(self, count: int) -> list[tuple[float, float]]:
        """Gauss-Legendre quadrature in t^(1/p), with p the `time_power` of the process."""
        ends = self.first ** (1 / self.power), self.last ** (1 / self.power)
        place, weights = gauss_legendre(count, *ends)
        widths = self.power * place ** (self.power - 1) * weights
        return list(zip((place**self.power).tolist(), widths.tolist(), strict=True))
