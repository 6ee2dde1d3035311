"""The probability-flow ODE, solved by scipy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Count, NonNegative, Tolerance
from backdrift.solvers.flows.flow import SaveAt, flow, interior
from backdrift.solvers.flows.time_flow import TimeFlow
from backdrift.solvers.model import ModelLike, denoiser_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver

Method = Literal["RK45", "RK23", "DOP853", "LSODA", "Radau", "BDF"]


@dataclass(frozen=True, kw_only=True)
class ScipyODE(Solver):
    """The probability flow of any process, solved by the integrators of `scipy.integrate`, one sample at a time.

    Take it for a process that is not Gaussian, or for an implicit method. For Gaussian processes `Adaptive` is much
    faster. It solves

        dx/dt = f - g^2/2 score

    from T to eps, in x and t (Song et al. 2021, eq. 13; `TimeFlow` has the equation for matrix noise). Each sample is
    solved separately, so its steps and its result do not depend on the batch. The cost is one call of the network for
    each stage of each sample.

    Args:
        method: integrator of scipy, "RK45", "RK23", "DOP853", "LSODA", "Radau" or "BDF".
        rtol: relative tolerance of a step's error.
        atol: absolute tolerance of a step's error, in the units of x.
        eps: end time; the process's own by default.
        denoise: whether to end with D(x, eps) in place of x, if the process is Gaussian.
        max_steps: largest number of steps of a sample. `solve` raises `RuntimeError` if a sample needs more.
        save_at: how many states a trajectory has, or their times. `on_step` is called at these times. With a number,
            they are the times of the flow's own grid. A list of times must fall, starting below T. With `on_step` each
            interval between the times is solved separately.

    Raises:
        ValueError: if an argument has a value that is not allowed. The message names it.
        RuntimeError: `solve` raises it if a sample does not reach eps. The message names the sample and the time.
    """

    method: Method = "RK45"
    rtol: Tolerance = 1e-5
    atol: Tolerance = 1e-5
    eps: NonNegative | None = None
    denoise: bool = True
    max_steps: Count = 1000
    save_at: SaveAt = 32

    def __post_init__(self) -> None:
        check_fields(self)

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        plain = TimeFlow(model, self.eps)
        if len(x) == 0:
            return x  # there are no steps to choose
        times = [plain.last, plain.eps]
        if on_step is not None:
            own = flow(model, eps=self.eps)
            times[1:] = map(own.time, interior(own, self.save_at))
        used = [0] * len(x)
        for start, end in pairwise(times):
            x = torch.cat([self._solve_one(plain, x[i : i + 1], i, start, end, used) for i in range(len(x))])
            if on_step is not None:
                x = on_step(x, x.new_tensor(end))
        if self.denoise and model.sde.has_denoiser:
            x = denoiser_of(model)(x, x.new_tensor(plain.eps))
            return x if on_step is None else on_step(x, x.new_tensor(0.0))
        return x

    def _solve_one(self, path: TimeFlow, x: Tensor, index: int, start: float, end: float, used: list[int]) -> Tensor:
        """Solve sample `index` from `x` `[1, ...]` at `start` to `end`. `used` counts the steps of each sample."""
        import scipy.integrate  # slow to import, and only here

        here = path.select(torch.tensor([index], device=x.device))
        velocity = _on_the_host(here, x, (end, start))
        begin = x.detach().double().cpu().numpy().ravel()
        integrator = getattr(scipy.integrate, self.method)(
            velocity, start, begin, t_bound=end, rtol=self.rtol, atol=self.atol
        )
        message: str | None = None
        while integrator.status == "running":
            if used[index] == self.max_steps:
                integrator.status, message = "failed", f"it has not arrived after max_steps={self.max_steps} steps"
                break
            message = integrator.step()
            used[index] += 1
        if integrator.status == "failed":
            raise RuntimeError(
                f"scipy's {self.method}: sample {index} is stuck at t = {integrator.t:.6g}: {message}; "
                "loosen rtol and atol, or look for nan or a jump in the model there"
            )
        return torch.from_numpy(integrator.y).to(x).reshape(x.shape)


def _on_the_host(path: TimeFlow, x: Tensor, ends: tuple[float, float]) -> Callable[[float, np.ndarray], np.ndarray]:
    """dx/dt in the form that scipy takes: a function of flat float64 arrays."""

    def velocity(t: float, y: np.ndarray) -> np.ndarray:
        # Because of rounding, implicit methods may ask for a time just outside the interval.
        t = min(max(t, ends[0]), ends[1])
        with torch.no_grad():
            value = path.velocity(torch.from_numpy(y).to(x).reshape(x.shape), t)
        return value.double().cpu().numpy().ravel()

    return velocity
