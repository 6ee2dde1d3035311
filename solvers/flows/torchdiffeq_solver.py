"""The probability-flow ODE, solved by torchdiffeq if it is installed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Count, NonNegative, Positive, Tolerance
from backdrift.solvers.flows.flow import Flow, SaveAt, flow, interior
from backdrift.solvers.model import ModelLike, denoiser_of
from backdrift.solvers.noise import Noise
from backdrift.solvers.solver import OnStep, Solver
from backdrift.solvers.tables.table_solver import Steps

Method = Literal[
    "dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "euler", "midpoint", "heun2", "heun3", "rk4"
]
ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")


@dataclass(frozen=True, kw_only=True)
class TorchDiffEq(Solver):
    """The probability flow from T to eps, solved by `torchdiffeq.odeint` (Chen et al. 2018).

    Take it to compare with torchdiffeq, or for one of its methods. A Gaussian process is solved in the angle coordinate
    (`AngleFlow`), and any other process in x and t (`TimeFlow`). The last step ends exactly at eps, and the model is
    never evaluated outside [eps, T]. By itself, torchdiffeq would step past eps and interpolate.

    All samples of a batch share their steps, and the sample with the largest error sets the step size. So the result of
    a sample depends on the others, within the tolerance. `Adaptive` has separate steps for each sample.

    Args:
        method: of odeint, adaptive ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun") or on a fixed grid.
        rtol: relative tolerance of a step's error, if the method is adaptive.
        atol: absolute tolerance of a step's error in the coordinates, if the method is adaptive.
        steps: number of steps of a method on a fixed grid. The grid is the flow's own.
        eps: end time; the process's own by default.
        denoise: whether to end with D(x, eps) in place of x, if the process is Gaussian.
        data_std: standard deviation d of the data; the model's own by default, or else 1.
        max_steps: largest number of steps of an adaptive solve. `solve` raises `RuntimeError` if it needs more.
        save_at: how many states a trajectory of an adaptive method has, or their times. `on_step` is called at these
            times. With a number, they are the times of the flow's own grid. A list of times must fall, starting below
            T. With `on_step` each interval between the times is solved separately. A method on a fixed grid calls
            `on_step` after each step instead.

    Raises:
        ValueError: if an argument has a value that is not allowed. The message names it.
        ImportError: `solve` raises it if torchdiffeq is not installed.
        RuntimeError: `solve` raises it if an adaptive step becomes too small, or if there are too many steps. The
            message names the time.
    """

    method: Method = "dopri5"
    rtol: Tolerance = 1e-4
    atol: Tolerance = 1e-4
    steps: Steps = 32
    eps: NonNegative | None = None
    denoise: bool = True
    data_std: Positive | None = None
    max_steps: Count = 1000
    save_at: SaveAt = 32

    def __post_init__(self) -> None:
        check_fields(self)

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        path = flow(model, self.data_std, self.eps)
        if len(x) == 0:
            return x  # there are no steps to choose
        nodes = [path.first, path.last]
        if self.method not in ADAPTIVE:
            nodes = path.nodes(None, self.steps)
        elif on_step is not None:
            nodes = [*interior(path, self.save_at)[::-1], path.last]
        if on_step is None:
            x = self._carried(path, x, nodes)
        else:
            for low, high in reversed(list(pairwise(nodes))):
                x = self._carried(path, x, [low, high])
                x = on_step(x, x.new_tensor(path.time(low)))
        if self.denoise and model.sde.has_denoiser:
            x = denoiser_of(model)(x, x.new_tensor(path.eps))
            return x if on_step is None else on_step(x, x.new_tensor(0.0))
        return x

    def _carried(self, path: Flow, x: Tensor, nodes: list[float]) -> Tensor:
        """Solve from `x` at the last of `nodes`, which are rising values of u, and return the state at the first."""
        try:
            from torchdiffeq import odeint
        except ImportError as error:
            raise ImportError(
                "torchdiffeq is not installed: `pip install torchdiffeq`, or use solvers.Adaptive, which chooses the "
                "steps of each sample separately"
            ) from error
        # odeint goes forward in its time, so the time is -u, which rises from noise to data.
        clock = -torch.tensor(nodes, dtype=torch.float64, device=x.device).flip(0)
        asked = clock[0]

        def rate(v: Tensor, z: Tensor) -> Tensor:
            nonlocal asked
            asked = v
            return -path.velocity(z, -v)

        options: dict[str, Any] = {}
        if self.method in ADAPTIVE:
            options = {"norm": _of_the_worst, "step_t": clock[1:], "max_num_steps": self.max_steps}
        wide, narrow = path.scale(nodes[-1]), path.scale(nodes[0])
        try:
            states = odeint(rate, x / wide, clock, rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        except AssertionError as error:
            raise RuntimeError(
                f"torchdiffeq: {error}, last asked at t = {path.time(-float(asked)):.6g}; "
                "loosen rtol and atol, or look for nan or a jump in the model there"
            ) from error
        return narrow * states[-1]


def _of_the_worst(z: Tensor) -> Tensor:
    """The largest root mean square of all samples in the batch, which sets the step size."""
    return z.flatten(1).square().mean(1).amax().sqrt()
