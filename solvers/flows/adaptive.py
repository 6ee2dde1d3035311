"""The probability flow with steps chosen for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from backdrift.sde import SDE
from backdrift.sde.checks import require_integer, require_positive
from backdrift.solvers.flows.dormand_prince import AdaptiveSolution, Control, DensePath, adaptive
from backdrift.solvers.flows.flow import AngleFlow, interior, require_save_at
from backdrift.solvers.model import Denoises, Model, denoiser_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, require_gaussian


@dataclass(frozen=True, kw_only=True)
class Adaptive(Solver):
    """Dormand & Prince's embedded 5(4) pair on dz/dphi = -F in log-SNR, with a step size for each sample.

    z = x/(alpha R) and phi = atan(s/d) as in `solvers.tables.prediction`. The equation has no linear part left that an
    exponential integrator would treat exactly, and z keeps unit scale, so that one tolerance serves the whole way. A
    sample that has arrived leaves the batch; its answer is the same alone and in any batch. The field is never asked
    outside [eps, T].

    Steps chosen for each sample cost more calls of the network and evaluate fewer states. Of 64 samples of 32 modes at
    tolerance 1e-5 the last arrives after 133 calls, which saw 7258 states. One step size for all takes 116 calls and
    7424 states, and leaves the worst sample five times farther from the exact flow
    (`benchmarks/overhead.py --peers`).

    Dormand & Prince (1980); step control after Hairer, Nørsett & Wanner (1993), section II.4.

    Args:
        rtol, atol: tolerances of a step's error in z, whose components are of order 1.
        eps: end time; the process's own by default.
        denoise: end with D(x, eps) in place of x.
        data_std: standard deviation d of the data; the model's own by default, or else 1.
        max_steps: give up on samples that need more.
        save_at: how many states a trajectory has, or their times. `on_step` is called at the same times: so many of
            the flow's own grid, or those given, which fall from below T. Where `on_step` returns another state than it
            was given, the solve begins anew from that state.

    Raises:
        ValueError: naming the argument that makes no sense; by `solve`, if the process is not Gaussian.
        RuntimeError: by `solve`, if a sample does not arrive or its step underflows, naming the sample and its time.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    eps: float | None = None
    denoise: bool = True
    data_std: float | None = None
    max_steps: int = 1000
    save_at: int | Sequence[float] = 32

    def __post_init__(self) -> None:
        require_positive(rtol=self.rtol, atol=self.atol)
        require_integer("max_steps", self.max_steps, least=1)
        require_save_at(self.save_at)

    def require_process(self, sde: SDE) -> None:
        require_gaussian(self, sde)

    def solve(self, model: Model, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        flow = self._flow(model)
        if on_step is None:
            x = flow.width(flow.eps) * self._solved(flow, x / flow.width(flow.sde.T), flow.last).z
        else:
            x = self._shown(flow, x, on_step)
        if self.denoise:
            x = denoiser_of(model)(x, x.new_tensor(flow.eps))
            return x if on_step is None else on_step(x, x.new_tensor(0.0))
        return x

    def path(self, model: Model, x: Tensor) -> FlowPath:
        """The states on the way from `x` `[batch, ...]` at T to eps: a function of time, from one solve.

        It takes the memory of three states for each step of each sample.
        """
        flow = self._flow(model)
        solved = self._solved(flow, x / flow.width(flow.sde.T), flow.last, dense=True)
        assert solved.path is not None
        return FlowPath(flow, solved.path, solved.nfe)

    def _flow(self, model: Model) -> AngleFlow:
        self.require_process(model.sde)
        return AngleFlow(cast(Denoises, model), self.data_std, self.eps)

    def _solved(
        self, flow: AngleFlow, z: Tensor, start: float, end: float | None = None, dense: bool = False
    ) -> AdaptiveSolution:
        control = Control(self.rtol, self.atol, limit=self.max_steps)
        return adaptive(flow, z, control, start=start, end=flow.first if end is None else end, dense=dense)

    def _shown(self, flow: AngleFlow, x: Tensor, on_step: OnStep) -> Tensor:
        """The state at eps, with `on_step` called at the times that were asked for.

        One solve serves until a state comes back changed. From there on each interval is solved by itself.
        """
        ends = [flow.last, *interior(flow, self.save_at)]
        path: FlowPath | None = self.path(flow.model, x)
        for start, end in pairwise(ends):
            t = flow.time(end)
            if path is not None:
                x = path(t)
            else:
                z = self._solved(flow, x / flow.width(flow.time(start)), start, end).z
                x = flow.width(t) * z
            given = x.clone()
            x = on_step(x, x.new_tensor(t))
            if not torch.equal(x, given):
                path = None
        return x


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
