"""The probability flow with steps chosen for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backdrift.sde.checks import require_positive
from backdrift.solvers.flows.dormand_prince import AdaptiveSolution, DensePath, adaptive
from backdrift.solvers.flows.flow import AngleFlow
from backdrift.solvers.model import denoiser_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver


@dataclass(frozen=True, kw_only=True)
class Adaptive(Solver):
    """Dormand & Prince's embedded 5(4) pair on dz/dphi = -F in log-SNR, with a step size for each sample.

    z = x/(alpha R) and phi = atan(s/d) as in `solvers.prediction`: no linear part is left for an exponential
    integrator to take care of, and z keeps unit scale, so that one tolerance serves the whole way. A sample that has
    arrived leaves the batch; its answer is the same alone and in any batch. The field is never asked outside [eps, T].

    Steps of one's own cost calls and save states: of 64 samples of 32 modes at tolerance 1e-5 the last arrives after
    133 calls of the network, which saw 7258 states; one step for all takes 116 calls and 7424 states, and leaves the
    worst sample five times farther from the exact flow (`benchmarks/overhead.py --peers`).

    Dormand & Prince (1980); step control after Hairer, Nørsett & Wanner (1993), section II.4.

    Args:
        rtol, atol: tolerances of a step's error in z, whose components are of order 1.
        eps: end time; the process's own by default.
        denoise: end with D(x, eps) in place of x.
        data_std: d; the model's own by default, or else 1.
        max_steps: give up on samples that need more.

    Raises:
        RuntimeError: if a sample does not arrive or its step underflows, naming the sample and its time.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    eps: float | None = None
    denoise: bool = True
    data_std: float | None = None
    max_steps: int = 1000

    def __post_init__(self) -> None:
        require_positive(rtol=self.rtol, atol=self.atol, max_steps=self.max_steps)

    def solve(self, model: Any, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """See `Solver.solve`. Samples share no steps: `on_step` is shown the path at 32 times, even in the flow's own
        grid, and what it returns is not gone on from, but at the end."""
        flow = AngleFlow(model, self.data_std, self.eps)
        if on_step is None:
            x = flow.width(flow.eps) * self._solved(flow, x).z
        else:
            path = self.path(model, x)
            for t in map(flow.time, reversed(flow.nodes(None, 32)[:-1])):
                x = on_step(path(t), x.new_tensor(t))
        if self.denoise:
            x = denoiser_of(model)(x, x.new_tensor(flow.eps))
            return x if on_step is None else on_step(x, x.new_tensor(0.0))
        return x

    def path(self, model: Any, x: Tensor) -> FlowPath:
        """The states on the way from `x` `[batch, ...]` at T to eps: a function of time, from one solve.

        It takes the memory of three states for each step of each sample.
        """
        flow = AngleFlow(model, self.data_std, self.eps)
        solved = self._solved(flow, x, dense=True)
        assert solved.path is not None
        return FlowPath(flow, solved.path, solved.nfe)

    def _solved(self, flow: AngleFlow, x: Tensor, dense: bool = False) -> AdaptiveSolution:
        z = x / flow.width(flow.sde.T)
        return adaptive(flow, z, back=True, rtol=self.rtol, atol=self.atol, limit=self.max_steps, dense=dense)


@dataclass(frozen=True)
class FlowPath:
    """x(t) of each sample of an adaptive solve, between steps to the fourth order; see `DensePath`.

    Attributes:
        flow: whose path it is.
        dense: z(u) in the coordinates of the flow.
        nfe: evaluations that each sample took, `[batch]`.
    """

    flow: AngleFlow
    dense: DensePath
    nfe: Tensor

    def __call__(self, t: Tensor | float | Sequence[float]) -> Tensor:
        """The states at times t, one for all samples, `[batch, ...]`, or several, `[m]`: `[m, batch, ...]`.

        Raises:
            ValueError: if a time is outside [eps, T].
        """
        times = torch.as_tensor(t, dtype=torch.float64, device=self.dense.knots.device)
        sde, eps = self.flow.sde, self.flow.eps
        slack = 1e-6 * sde.T  # of a time that was rounded to float32
        if times.ndim > 1 or not bool(((times >= eps - slack) & (times <= sde.T + slack)).all()):
            raise ValueError(f"t: expected times in [eps = {eps:.6g}, T = {sde.T:g}], got {times.tolist()}")
        flat = times.reshape(-1).clamp(eps, sde.T)
        z = self.dense(-0.5 * sde.log_snr(flat))
        scale = torch.hypot(sde.alpha(flat) * self.flow.data_std, sde.sigma(flat))
        x = scale.to(z.dtype).reshape(-1, *(1,) * (z.ndim - 1)) * z
        return x if times.ndim else x[0]
