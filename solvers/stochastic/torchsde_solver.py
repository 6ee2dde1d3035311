"""The reverse SDE, solved by torchsde."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor

from backdrift.sde import SDE, GaussianSDE
from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import NonNegative, OneOf
from backdrift.solvers.model import ModelLike, denoiser_of, score_of
from backdrift.solvers.noise import STEPS, Noise
from backdrift.solvers.solver import OnStep, Solver, end_time, require_noise
from backdrift.solvers.tables.table_solver import Steps

Method = Literal["euler", "milstein", "srk", "midpoint", "heun", "reversible_heun", "euler_heun", "log_ode"]
ITO = ("euler", "milstein", "srk")


class _Clocked(torch.nn.Module):
    """A reverse SDE in a variable u that rises, as torchsde requires: from 0 to `steps` as t falls from T to eps.

    With rate = -dt/du > 0 the drift in u is -rate f and the diffusion is sqrt(rate) g. States and Brownian motions are
    flattened to `[batch, channels]`.
    """

    sde_type = "ito"

    def __init__(self, reverse: SDE, shape: torch.Size, eps: float, clock: str, forward: SDE, steps: int) -> None:
        super().__init__()
        self.reverse, self.shape, self.eps, self.clock, self.forward_sde = reverse, shape, eps, clock, forward
        additive = reverse.noise_type == "general" and not reverse.state_dependent
        self.noise_type = "additive" if additive else reverse.noise_type
        self.steps = steps
        if clock == "log_snr":
            gaussian = cast(GaussianSDE, forward)
            self.first, self.last = float(gaussian.log_snr(forward.start)), float(gaussian.log_snr(eps))

    def time(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """t(u) and -dt/du."""
        if self.clock == "t":
            span = (self.forward_sde.start - self.eps) / self.steps
            return self.forward_sde.start - span * u, span * torch.ones_like(u)
        sde = cast(GaussianSDE, self.forward_sde)
        step = (self.last - self.first) / self.steps
        t = sde.t_from_log_snr(self.first + step * u).clamp(self.eps, sde.start)
        return t, step * (sde.sigma(t) / sde.g(t)).square()  # d log_snr/dt = -g^2/sigma^2

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        t, rate = self.time(u.to(y))
        return -rate * self.reverse.drift(y.reshape(self.shape), t).reshape(y.shape)

    def g_prod(self, u: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """g w for the Brownian motions w. A full matrix g is formed only if the process has one."""
        t, rate = self.time(u.to(y))
        x = y.reshape(self.shape)
        return rate.sqrt() * self.reverse.apply_noise(x, t, w.reshape(self.reverse.noise_shape(x))).reshape(y.shape)


class _ClockedElementwise(_Clocked):
    """The same with g itself, which torchsde's methods of higher order need for diagonal and scalar noise."""

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        t, rate = self.time(u.to(y))
        x = y.reshape(self.shape)
        g = (rate.sqrt() * self.reverse.diffusion(x, t)).expand_as(x).reshape(y.shape)
        return g.unsqueeze(-1) if self.noise_type == "scalar" else g


class _Increments:
    """A Brownian motion for solvers that ask for one interval after another. Each sample has its own random numbers.

    It returns the increment W over [a, b] and, if asked, U = int_a^b (W_r - W_a) dr. Both are normal with the correct
    joint law (Kloeden & Platen 1992, section 10.4). A step costs one draw, and one more for U. torchsde's own Brownian
    tree can return any interval, so it draws many more: its noise takes 11 times as long over 1000 Euler steps of a
    state 64 x 2 if it is told the step size (`dt`), and 29 times without. Over 100 steps of a state 64 x 3072 it takes
    2.0 and 2.3 times as long.
    """

    def __init__(self, noise: Noise, shape: tuple[int, ...]) -> None:
        self.noise, self.shape, self.dtype, self.device = noise, shape, noise.dtype, noise.device
        self.levy_area_approximation = "space-time"
        self._interval: tuple[float, float] | None = None
        self._w: Tensor = torch.empty(0)
        self._u: Tensor | None = None

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        if return_A or tb is None:
            raise ValueError("method: expected one that takes increments in sequence, got one that asks for more")
        a, b = float(ta), float(tb)
        if self._interval != (a, b):
            self._w, self._u = math.sqrt(b - a) * self.noise(), None
            self._interval = (a, b)
        if not return_U:
            return self._w
        if self._u is None:
            h = b - a
            self._u = h * (0.5 * self._w + math.sqrt(h / 12) * self.noise())
        return self._w, self._u


@dataclass(frozen=True, kw_only=True)
class TorchSDE(Solver):
    """The reverse SDE of any process, solved by `torchsde.sdeint` (Li et al. 2020) with fixed steps.

    Take it for processes that are not Gaussian, or for a higher strong order. The strong order is 0.5 for "euler" (1 if
    the noise is additive), 1 for "milstein", and 1.5 for "srk" (Rößler 2010).

    Args:
        method: method of torchsde for an Ito SDE, "euler", "milstein" or "srk". Only "euler" takes noise that is a full
            matrix and depends on the state.
        steps: number of steps.
        stochasticity: lambda of the reverse SDE; 0 is the probability flow.
        clock: variable in which the steps are even; "log_snr" by default for Gaussian processes, "t" for others.
        eps: end time; the process's own by default.
        denoise: whether to end with D(x, eps) in place of x, if the process is Gaussian.

    Raises:
        ValueError: if the method is for Stratonovich SDEs, or if the method or the clock does not fit the process.
    """

    method: Annotated[Method, OneOf(ITO)] = "srk"
    steps: Steps = 100
    stochasticity: NonNegative = 1.0
    clock: Literal["log_snr", "t"] | None = None
    eps: NonNegative | None = None
    denoise: bool = True
    stochastic = True

    def __post_init__(self) -> None:
        check_fields(self)

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        import torchsde  # slow to import, and only here

        noise, sde = require_noise(self, noise), model.sde
        eps = end_time(sde, self.eps)
        clocked = self._clocked(model, x, eps)
        channels = math.prod(clocked.reverse.noise_shape(x)[1:])
        increments = _Increments(noise.sibling((x.shape[0], channels), stream=STEPS), (x.shape[0], channels))
        # The times in u are whole numbers, so that steps of 1 meet them exactly.
        marks = torch.arange(self.steps + 1.0, dtype=torch.float64, device=x.device)
        # For a single Brownian motion, torchsde computes Milstein's term (dg/dx) g with dg/dx transposed. Its version
        # with finite differences (`grad_free`) is right.
        options = {"grad_free": True} if self.method == "milstein" and clocked.noise_type == "scalar" else {}
        for ends in [marks[[0, -1]]] if on_step is None else marks.unfold(0, 2, 1):
            y = x.flatten(1)
            path = torchsde.sdeint(clocked, y, ends, bm=increments, method=self.method, dt=1.0, options=options)
            x = path[-1].reshape(x.shape)
            if on_step is not None:
                x = on_step(x, clocked.time(ends[1].to(x))[0])
        if self.denoise and sde.has_denoiser:
            x = denoiser_of(model)(x, x.new_tensor(eps))
            return x if on_step is None else on_step(x, x.new_tensor(0.0))
        return x

    def _clocked(self, model: ModelLike, x: Tensor, eps: float) -> _Clocked:
        """The reverse SDE in the form that torchsde takes, in the variable that `clock` names."""
        sde = model.sde
        clock = self.clock or ("log_snr" if sde.has_denoiser else "t")
        if clock == "log_snr" and not sde.has_denoiser:
            raise ValueError(f"clock: {type(sde).__name__} has no log-SNR; use clock='t'")
        reverse = sde.reverse(score_of(model), self.stochasticity)
        kind = _Clocked if reverse.noise_type == "general" else _ClockedElementwise
        clocked = kind(reverse, x.shape, eps, clock, sde, self.steps)
        if clocked.noise_type == "general" and self.method != "euler":
            raise ValueError(
                f"method: {self.method!r} does not take the full, state-dependent noise of {type(sde).__name__}; "
                "use method='euler'"
            )
        return clocked
