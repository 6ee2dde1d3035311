"""The symmetric splitting sampler of critically damped Langevin diffusion, for any stable linear process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from torch import Tensor

from backdrift.sde import SDE, LinearSDE
from backdrift.sde.arguments import check_fields
from backdrift.sde.linear import apply, factor
from backdrift.sde.value_types import NonNegative, OneOf
from backdrift.solvers.model import ModelLike, score_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, end_time, require_noise
from backdrift.solvers.tables.grid import time_grid
from backdrift.solvers.tables.table_solver import Steps

Inner = Literal["euler", "midpoint"]


@dataclass(frozen=True, kw_only=True)
class SymmetricSplitting(Solver):
    """A symmetric splitting of the reverse SDE of a stable linear process, such as `CriticallyDamped`.

    In the time tau of the schedule, which runs backwards, the reverse of dx = A x dtau + L dw is
    dx = (-A x + L L^T score) dtau + L dw. With the stationary covariance C, for which A C + C A^T + L L^T = 0, it is
    the sum of two parts:

        A:  dx = C A^T C^{-1} x dtau + L dw,    the reverse of the stationary process, which is solved exactly,
        S:  dx = L L^T (score + C^{-1} x) dtau,    the learned part, which is 0 if p_t is the stationary density.

    Each step solves part A for half a step, part S for a whole step, and part A for half a step again. For
    `CriticallyDamped` and inner="euler" this is SSCS of Dockhorn, Vahdat & Kreis (2022). One Euler step in S costs one
    evaluation, and the weak order is 1. One midpoint step in S costs two evaluations, and the weak order is 2 (Strang
    1968).

    Args:
        steps: number of steps.
        grid: the times by name, "uniform" or "quadratic", or as a list or a function. A list has `steps + 1` times.
        inner: how the learned part S is solved, "euler" or "midpoint".
        eps: the time at which the grid ends; the process's own by default.

    Raises:
        ValueError: if an argument has a value that is not allowed. The message names it.
    """

    stochastic = True

    steps: Steps = 50
    grid: Annotated[str, OneOf(("uniform", "quadratic"))] | Sequence[float] | Tensor | Callable[..., Tensor] = "uniform"
    inner: Inner = "euler"
    eps: NonNegative | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def nfe(self) -> int:
        """The number of evaluations of the score per sample."""
        return self.steps * (1 if self.inner == "euler" else 2)

    def with_budget(self, nfe: int, sde: SDE) -> SymmetricSplitting:
        """This solver with the largest number of steps that takes at most `nfe` evaluations.

        Raises:
            ValueError: if one step takes more than `nfe` evaluations.
        """
        cost = self.nfe // self.steps
        if nfe < cost:
            raise ValueError(f"nfe: expected enough evaluations for one step of {type(self).__name__}, got {nfe}")
        return dataclasses.replace(self, steps=nfe // cost)

    def require_process(self, sde: SDE) -> None:
        if not isinstance(sde, LinearSDE):
            raise ValueError(
                f"SymmetricSplitting is for linear processes with a matrix, such as sde=cld (CriticallyDamped), the "
                f"process is {type(sde).__name__}; take solver=adams (Adams) or another"
            )

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """Solve from the state `x` at T to eps, and return the state there, shaped like `x`.

        Args:
            model: a model with `sde`, a `LinearSDE` with a stationary density, and `score(x, t)`. Only L L^T score is
                used.
            x: the state at T, `[batch, d, ...]`.
            noise: returns standard normal noise shaped like `x`. It is called twice in each step.
            on_step: called with (x, t) after each step. The solver continues from the state that it returns.

        Raises:
            ValueError: if no `noise` is given, or if the process is not linear or not stable.
        """
        self.require_process(model.sde)
        sde, score, noise = cast(LinearSDE, model.sde), score_of(model), require_noise(self, noise)
        eps = end_time(sde, self.eps)
        times = time_grid(self.grid, sde, self.steps, eps)  # type: ignore[arg-type]  # uses T alone of the process
        tau = sde.schedule.integrated_beta(times).diff().neg()
        c = sde.stationary_covariance
        pull = torch.linalg.inv(c)
        back = LinearSDE(c @ sde.A.mT @ pull, sde.L, T=float(tau.max()))
        phi, sigma = (m.to(x) for m in back.moments_after(tau / 2))
        root = factor(sigma).to(x)
        push, pull = (sde.L @ sde.L.mT).to(x), pull.to(x)
        middle = ((times[:-1] + times[1:]) / 2).to(x)
        times, tau = times.to(x), tau.to(x)

        def learned(x: Tensor, k: int) -> Tensor:
            return apply(push, score(x, middle[k]) + apply(pull, x))

        for k in range(self.steps):
            x = apply(phi[k], x) + apply(root[k], noise())
            slope = learned(x, k)
            if self.inner == "midpoint":
                slope = learned(x + 0.5 * tau[k] * slope, k)
            x = x + tau[k] * slope
            x = apply(phi[k], x) + apply(root[k], noise())
            if on_step is not None:
                x = on_step(x, times[k + 1])
        return x
