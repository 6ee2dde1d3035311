"""The probability-flow ODE by scipy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from backdrift.sde.checks import require_choice, require_positive
from backdrift.solvers.model import denoiser_of, score_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver

Method = Literal["RK45", "RK23", "DOP853", "LSODA", "Radau", "BDF"]


@dataclass(frozen=True, kw_only=True)
class ScipyODE(Solver):
    """dx/dt = f - g^2/2 score from T to eps by `scipy.integrate.solve_ivp`, Song et al. (2021), eq. 13.

    For any process, also a user's own, in plain (x, t) coordinates. Each sample is solved on its own,
    so its steps and its result do not depend on the batch; that costs one network call a sample and
    stage. `Adaptive` is the fast way for Gaussian processes.

    Args:
        method: of solve_ivp.
        rtol, atol: relative and absolute tolerance of a step.
        eps: end time; the process's own by default.
        denoise: end with D(x, eps) in place of x, where the process is Gaussian.
        max_evaluations: give up on a sample that needs more.

    Raises:
        ValueError: naming the argument that makes no sense.
    """

    method: Method = "RK45"
    rtol: float = 1e-5
    atol: float = 1e-5
    eps: float | None = None
    denoise: bool = True
    max_evaluations: int = 100_000

    def __post_init__(self) -> None:
        require_choice("method", self.method, get_args(Method))
        require_positive(rtol=self.rtol, atol=self.atol)

    def solve(self, model: Any, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        flow = model.sde.reverse(score_of(model), stochasticity=0.0)
        eps = float(getattr(model.sde, "eps", 0.0)) if self.eps is None else self.eps
        ends = torch.cat([self._solve_one(flow, one, eps) for one in x.split(1)])
        if self.denoise and hasattr(model.sde, "alpha"):
            ends = denoiser_of(model)(ends, x.new_tensor(eps))
        return ends if on_step is None else on_step(ends, x.new_tensor(eps))

    def _solve_one(self, flow: Any, x: Tensor, eps: float) -> Tensor:
        from scipy.integrate import solve_ivp  # slow to import, and only here

        calls = 0

        def velocity(t: float, y: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            if calls > self.max_evaluations:
                raise RuntimeError(f"probability flow: more than {self.max_evaluations} evaluations, now at t = {t:g}")
            # Implicit methods may ask a rounding beyond the interval.
            t = min(max(t, eps), flow.T)
            return flow.drift(torch.from_numpy(y).to(x).reshape(x.shape), t).double().cpu().numpy().ravel()

        start = x.double().cpu().numpy().ravel()
        solution = solve_ivp(velocity, (flow.T, eps), start, method=self.method, rtol=self.rtol, atol=self.atol)
        if not solution.success:
            raise RuntimeError(f"probability flow: solve_ivp stopped at t = {solution.t[-1]:g}: {solution.message}")
        return torch.from_numpy(solution.y[:, -1]).to(x).reshape(x.shape)
