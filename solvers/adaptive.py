"""The probability flow with steps chosen for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sde.process import require_positive
from solvers.flow import AngleFlow
from solvers.flow_solvers import adaptive
from solvers.noise import Noise
from solvers.solver import OnStep, Solver, denoiser_of


@dataclass(frozen=True, kw_only=True)
class Adaptive(Solver):
    """Dormand & Prince's embedded 5(4) pair on dz/dphi = -F in log-SNR, with a step size for each sample.

    z = x/(alpha R) and phi = atan(s/d) as in `solvers.prediction`: no stiff linear part is left, and z keeps unit
    scale, so that one tolerance serves the whole way. A sample that has arrived leaves the batch; its answer is
    the same alone and in any batch. The field is never asked outside [eps, T].

    Dormand & Prince (1980); step control after Hairer, Norsett & Wanner (1993), section II.4.

    Args:
        rtol, atol: tolerances of a step's error in z, whose components are of order 1.
        eps: end time; the process's own by default.
        denoise: end with D(x, eps) in place of x.
        data_std: d; the model's own by default, or else 1.
        max_steps: give up on samples that need more.

    Raises:
        RuntimeError: if a sample does not arrive, naming it, its time and its step.
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
        flow = AngleFlow(model, self.data_std, self.eps)
        none = x.new_zeros(0, len(x))

        def rate(z: Tensor, u: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            return flow.velocity(z, u), none[:, : len(z)]

        end = adaptive(
            x / flow.width(model.sde.T), flow.last, flow.first, rate, 0, self.rtol, self.atol, self.max_steps
        )
        x = flow.width(flow.eps) * end.z
        t = torch.tensor(flow.eps).to(x)
        if self.denoise:
            x = denoiser_of(model)(x, t)
        return x if on_step is None else on_step(x, t)
