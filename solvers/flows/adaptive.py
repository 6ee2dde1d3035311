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
from backdrift.solvers.flows.adams_path import AdamsPath
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.dormand_prince import Control
from backdrift.solvers.flows.flow import SaveAt, interior
from backdrift.solvers.flows.variable_adams import AdamsSolution, variable_adams
from backdrift.solvers.model import Denoises, ModelLike
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver, require_gaussian


@dataclass(frozen=True, kw_only=True)
class Adaptive(Solver):
    """Adams methods of variable step and order for the probability flow, with separate steps for each sample.

    Take it to reach a given accuracy with as many evaluations as that needs. It solves dz/dphi = -F, with
    z = x/(alpha R) and phi = atan(s/d) (see `AngleFlow`). A step predicts and corrects the state with polynomials
    through 1 to 6 earlier values, at the uneven times of the steps before, and costs one evaluation (Shampine & Gordon
    1975; Hairer, Nørsett & Wanner 1993, section III.5). This equation has no linear part that an exponential integrator
    would treat exactly, and z has unit scale at all times, so one tolerance suits all times.

    A tolerance bounds the error of one step. On normal data the root mean square error of the samples, in units of d,
    is at most 40 times the tolerance, and on mixtures of few modes in 64 dimensions too. On mixtures of 32 modes it is
    up to 170 times, because the flow magnifies the error of the few samples near the border of two modes
    (`benchmarks/adaptive.py`).

    A sample that has reached the end leaves the batch. Its result is the same alone and in a batch of any size. The
    model is never evaluated outside [eps, T].

    Args:
        rtol: relative tolerance of a step's error in z.
        atol: absolute tolerance of a step's error in z, whose components are of order 1.
        eps: last time at which the model may be evaluated; the process's own by default.
        denoise: whether to end at the data in place of the state at eps. The last step then leads to sigma = 0, where
            F = 0 is known for data that have a density, so it needs no evaluation. It is taken as soon as its estimated
            error allows it, and at eps in any case.
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

    rtol: Tolerance = 1e-5
    atol: Tolerance = 1e-5
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
            return self._width_at_end(flow) * self._solved(flow, x, flow.last, self.denoise).z
        return self._shown(flow, x, on_step)

    def path(self, model: ModelLike, x: Tensor) -> FlowPath:
        """Solve from the state `x` `[batch, ...]` at T to eps, and return the path as a function of time.

        The path needs the memory of two states for each step of each sample.

        Raises:
            ValueError: if the process is not Gaussian.
            RuntimeError: as for `solve`.
        """
        flow = self._flow(model)
        return FlowPath.of(flow, self._solved(flow, x, flow.last, dense=True))

    def _flow(self, model: ModelLike) -> AngleFlow:
        self.require_process(model.sde)
        return AngleFlow(cast(Denoises, model), self.data_std, self.eps)

    def _width_at_end(self, flow: AngleFlow) -> float:
        return flow.data_std if self.denoise else flow.width(flow.eps)

    def _solved(
        self,
        flow: AngleFlow,
        x: Tensor,
        start: float,
        to_data: bool = False,
        end: float | None = None,
        dense: bool = False,
    ) -> AdamsSolution:
        """Solve from the state `x` at u = `start` to u = `end`, by default the flow's first, and on to the data."""
        control = Control(self.rtol, self.atol, limit=self.max_steps)
        z, last = x / flow.width(flow.time(start)), flow.first if end is None else end
        return variable_adams(flow, z, control, start=start, end=last, to_data=to_data, dense=dense)

    def _shown(self, flow: AngleFlow, x: Tensor, on_step: OnStep) -> Tensor:
        """The state at the end, with `on_step` called at the times of `save_at`, and at 0 after the step to the data.

        A single solve gives all states as long as `on_step` returns them unchanged. After the first change, each
        interval between the times is solved separately.
        """
        whole: AdamsSolution | None = self._solved(flow, x, flow.last, self.denoise, dense=True)
        for start, end in pairwise([flow.last, *interior(flow, self.save_at)]):
            t = flow.time(end)
            if whole is None:
                x = flow.width(t) * self._solved(flow, x, start, end=end).z
            elif end == flow.first and not self.denoise:
                x = flow.width(t) * whole.z
            else:
                x = FlowPath.of(flow, whole)(t)
            given = x.clone()
            x = on_step(x, x.new_tensor(t))
            if not torch.equal(x, given):
                whole = None
        if not self.denoise:
            return x
        if whole is None:
            whole = self._solved(flow, x, flow.first, to_data=True)
        return on_step(flow.data_std * whole.z, x.new_tensor(0.0))


@dataclass(frozen=True)
class FlowPath:
    """The path x(t) of each sample of an adaptive solve, as a function of time.

    Between the ends of the steps it is as accurate as at them, see `AdamsPath`.

    Attributes:
        flow: the flow that was solved.
        dense: the path z(phi) in the coordinates of the flow.
        nfe: the number of evaluations for each sample, `[batch]`.
    """

    flow: AngleFlow
    dense: AdamsPath
    nfe: Tensor

    @classmethod
    def of(cls, flow: AngleFlow, solution: AdamsSolution) -> FlowPath:
        """The path of a solve that kept it."""
        assert solution.path is not None
        return cls(flow, solution.path, solution.nfe)

    def __call__(self, t: Tensor | float | Sequence[float]) -> Tensor:
        """The states at one time, `[batch, ...]`, or at m times, `[m, batch, ...]`.

        Args:
            t: the time, or the times `[m]`.

        Raises:
            ValueError: if a time is outside [eps, T].
        """
        times = torch.as_tensor(t, dtype=torch.float64, device=self.dense.angles.device)
        sde, eps = self.flow.sde, self.flow.eps
        slack = 1e-6 * sde.T  # for times that were rounded to float32
        if times.ndim > 1 or not bool(((times >= eps - slack) & (times <= sde.T + slack)).all()):
            raise ValueError(f"t: expected times in [eps = {eps:.6g}, T = {sde.T:g}], got {times.tolist()}")
        flat = times.reshape(-1).clamp(eps, sde.start)
        z = self.dense(torch.atan(torch.exp(-0.5 * sde.log_snr(flat)) / self.flow.data_std))
        scale = torch.hypot(sde.alpha(flat) * self.flow.data_std, sde.sigma(flat))
        x = scale.to(z.dtype).reshape(-1, *(1,) * (z.ndim - 1)) * z
        return x if times.ndim else x[0]
