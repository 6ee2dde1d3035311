"""An adaptive solver of the probability flow, which chooses the steps of each sample separately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from backdrift.sde import SDE
from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Count, NonNegative, Positive, Tolerance
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.dormand_prince import AdaptiveSolution, Control, DensePath, adaptive
from backdrift.solvers.flows.flow import SaveAt, interior
from backdrift.solvers.model import Denoises, ModelLike, denoiser_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, require_gaussian


@dataclass(frozen=True, kw_only=True)
class Adaptive(Solver):
    """An adaptive Runge-Kutta method of order 5 for the probability flow, with a separate step size for each sample.

    Take it to reach a given accuracy with as many evaluations as that needs. It uses the embedded 5(4) pair of Dormand
    & Prince (1980), with the step control of Hairer, Nørsett & Wanner (1993), section II.4. It solves dz/dphi = -F in
    steps of log-SNR, with z = x/(alpha R) and phi = atan(s/d) (see `AngleFlow`). This equation has no linear part that
    an exponential integrator would treat exactly, and z has unit scale at all times, so one tolerance suits all times.

    A sample that has reached eps leaves the batch. Its result is the same alone and in a batch of any size. The model
    is never evaluated outside [eps, T].

    Separate steps take more calls of the network, but evaluate fewer states. For example, 64 samples of a mixture of 32
    modes at tolerance 1e-5 take 133 calls, with 7258 states in all. A common step size takes 116 calls and 7424 states,
    and its worst sample is five times farther from the exact flow (`benchmarks/overhead.py --peers`).

    Args:
        rtol: relative tolerance of a step's error in z.
        atol: absolute tolerance of a step's error in z, whose components are of order 1.
        eps: end time; the process's own by default.
        denoise: whether to end with D(x, eps) in place of x.
        data_std: standard deviation d of the data; the model's own by default, or else 1.
        max_steps: largest number of steps of a sample. `solve` raises `RuntimeError` if a sample needs more.
        save_at: how many states a trajectory has, or their times. `on_step` is called at these times. With a number,
            they are the times of the flow's own grid. A list of times must fall, starting below T. If `on_step`
            returns a changed state, the solve starts again from that state.

    Raises:
        ValueError: if an argument has a value that is not allowed. The message names it. `solve` raises it if the
            process is not Gaussian.
        RuntimeError: `solve` raises it if a sample needs more than `max_steps` steps, or if its step becomes too small.
            The message names the sample and the time.
    """

    rtol: Tolerance = 1e-4
    atol: Tolerance = 1e-4
    eps: NonNegative | None = None
    denoise: bool = True
    data_std: Positive | None = None
    max_steps: Count = 1000
    save_at: SaveAt = 32

    def __post_init__(self) -> None:
        check_fields(self)

    def require_process(self, sde: SDE) -> None:
        require_gaussian(self, sde)

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        flow = self._flow(model)
        if len(x) == 0:
            return x  # there are no steps to choose
        if on_step is None:
            x = flow.width(flow.eps) * self._solved(flow, x / flow.width(flow.sde.T), flow.last).z
        else:
            x = self._shown(flow, x, on_step)
        if self.denoise:
            x = denoiser_of(model)(x, x.new_tensor(flow.eps))
            return x if on_step is None else on_step(x, x.new_tensor(0.0))
        return x

    def path(self, model: ModelLike, x: Tensor) -> FlowPath:
        """Solve from the state `x` `[batch, ...]` at T to eps, and return the path as a function of time.

        The path needs the memory of three states for each step of each sample.

        Raises:
            ValueError: if the process is not Gaussian.
            RuntimeError: as for `solve`.
        """
        flow = self._flow(model)
        solved = self._solved(flow, x / flow.width(flow.sde.T), flow.last, dense=True)
        assert solved.path is not None
        return FlowPath(flow, solved.path, solved.nfe)

    def _flow(self, model: ModelLike) -> AngleFlow:
        self.require_process(model.sde)
        return AngleFlow(cast(Denoises, model), self.data_std, self.eps)

    def _solved(
        self, flow: AngleFlow, z: Tensor, start: float, end: float | None = None, dense: bool = False
    ) -> AdaptiveSolution:
        control = Control(self.rtol, self.atol, limit=self.max_steps)
        return adaptive(flow, z, control, start=start, end=flow.first if end is None else end, dense=dense)

    def _shown(self, flow: AngleFlow, x: Tensor, on_step: OnStep) -> Tensor:
        """The state at eps, with `on_step` called at the times of `save_at`.

        A single solve gives all states as long as `on_step` returns them unchanged. After the first change, each
        interval between the times is solved separately.
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
    """The path x(t) of each sample of an adaptive solve, as a function of time.

    Between the ends of the steps it is interpolated to fourth order, see `DensePath`.

    Attributes:
        flow: the flow that was solved.
        dense: the path z(u) in the coordinates of the flow.
        nfe: the number of evaluations for each sample, `[batch]`.
    """

    flow: AngleFlow
    dense: DensePath
    nfe: Tensor

    def __call__(self, t: Tensor | float | Sequence[float]) -> Tensor:
        """The states at one time, `[batch, ...]`, or at m times, `[m, batch, ...]`.

        Args:
            t: the time, or the times `[m]`.

        Raises:
            ValueError: if a time is outside [eps, T].
        """
        times = torch.as_tensor(t, dtype=torch.float64, device=self.dense.knots.device)
        sde, eps = self.flow.sde, self.flow.eps
        slack = 1e-6 * sde.T  # for times that were rounded to float32
        if times.ndim > 1 or not bool(((times >= eps - slack) & (times <= sde.T + slack)).all()):
            raise ValueError(f"t: expected times in [eps = {eps:.6g}, T = {sde.T:g}], got {times.tolist()}")
        flat = times.reshape(-1).clamp(eps, sde.T)
        z = self.dense(-0.5 * sde.log_snr(flat))
        scale = torch.hypot(sde.alpha(flat) * self.flow.data_std, sde.sigma(flat))
        x = scale.to(z.dtype).reshape(-1, *(1,) * (z.ndim - 1)) * z
        return x if times.ndim else x[0]
