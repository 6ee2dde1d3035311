"""The symmetric splitting sampler of critically damped Langevin diffusion, for any stable linear process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from backdrift.sde import SDE, LinearSDE
from backdrift.sde.checks import require_choice, require_integer
from backdrift.sde.linear import apply, factor
from backdrift.solvers.model import Model, score_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, require_noise
from backdrift.solvers.tables.grid import Grid, time_grid

Inner = Literal["euler", "midpoint"]


@dataclass(frozen=True, kw_only=True)
class SymmetricSplitting(Solver):
    """Reverse the part that is known exactly, half a step; the learned part, a step; the first again.

    In the time of the schedule, backwards, the reverse of dx = A x + L dw is dx = (-A x + L L^T score) + L dw.
    With C the stationary covariance, A C + C A^T + L L^T = 0, that is the sum of

        A:  dx = C A^T C^{-1} x + L dw,    the reverse of the stationary process, solved exactly;
        S:  dx = L L^T (score + C^{-1} x),    which vanishes where p_t is stationary already.

    For `CriticallyDamped` this is SSCS of Dockhorn, Vahdat & Kreis (2022), who take S by
    one Euler step: one evaluation, and the law of x is then right to order 1, as Euler is in S. A
    midpoint step in S, two evaluations, makes the whole of order 2 (Strang 1968).

    Args:
        steps: number of steps.
        grid: "uniform", "quadratic", or the `steps + 1` times themselves.
        inner: how S is solved, "euler" or "midpoint".
        eps: the time at which the grid ends; the process's own by default.

    Raises:
        ValueError: naming the argument that makes no sense.
    """

    stochastic = True

    steps: int = 50
    grid: Grid = "uniform"
    inner: Inner = "euler"
    eps: float | None = None

    def __post_init__(self) -> None:
        require_integer("steps", self.steps, 1)
        if isinstance(self.grid, str) and self.grid not in ("uniform", "quadratic"):
            raise ValueError(f"grid: expected uniform, quadratic, times or a function, got {self.grid!r}")
        require_choice("inner", self.inner, get_args(Inner))

    @property
    def nfe(self) -> int:
        """Evaluations of the score for a sample."""
        return self.steps * (1 if self.inner == "euler" else 2)

    def with_budget(self, nfe: int, sde: SDE) -> SymmetricSplitting:
        """This solver with as many steps as `nfe` evaluations pay for.

        Raises:
            ValueError: if they do not pay for one step.
        """
        cost = self.nfe // self.steps
        if nfe < cost:
            raise ValueError(f"nfe: {nfe} evaluations do not pay for a step of {type(self).__name__}")
        return dataclasses.replace(self, steps=nfe // cost)

    def require_process(self, sde: SDE) -> None:
        if not isinstance(sde, LinearSDE):
            raise ValueError(
                f"SymmetricSplitting is for linear processes with a matrix, such as sde=cld (CriticallyDamped), the "
                f"process is {type(sde).__name__}; take solver=adams (Adams) or another"
            )

    def solve(self, model: Model, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """The state at eps, from `x` `[batch, d, ...]` at T.

        Args:
            model: has `sde`, a `LinearSDE` with a stationary density, and `score(x, t)`, of which only
                L L^T score is used.
            x: the state at T.
            noise: gives standard normal draws like `x`, two for each step.
            on_step: called with (x, t) after each step; returns the state to go on from.

        Raises:
            ValueError: if there is no noise given, or the process is not linear or not stable.
        """
        self.require_process(model.sde)
        sde, score, noise = cast(LinearSDE, model.sde), score_of(model), require_noise(self, noise)
        eps = sde.eps if self.eps is None else float(self.eps)
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
