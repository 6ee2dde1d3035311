"""What a solver is, and `sample`, which puts a model and a solver together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from backdrift.sde import SDE
from backdrift.solvers.model import Model, place_of, require_model
from backdrift.solvers.noise import PRIOR, STEPS, Noise

OnStep = Callable[[Tensor, Tensor], Tensor]
"""Called with (x, t) after each step of a solver. It returns the state to continue from."""


class Solver(ABC):
    """Carries a state from T to the end of a process, backwards.

    All solvers keep to one contract. `on_step(x, t)` is called once for each step, with the times falling, and the
    solver continues from the state that it returns; the last state that it returns is the result. A step leads from
    one time of the grid to the next. A solver that chooses its steps calls `on_step` at the times that were asked for.
    A last denoising step has the time 0. A solver never changes the dtype of the state.
    """

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise on the way."""
        return False

    @property
    def differentiable(self) -> bool:
        """Whether gradients can be taken through `solve`."""
        return False

    def require_process(self, sde: SDE) -> None:  # noqa: B027, a solver without limits leaves it as it is
        """Check that the solver is for such a process. By default it is for all.

        Raises:
            ValueError: if it is not, with the solvers to take instead.
        """

    @abstractmethod
    def solve(self, model: Model, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """The state at the end, from `x` `[batch, ...]` at T.

        Args:
            model: has `sde` and `denoise(x, t)` or `score(x, t)`.
            x: the state at T.
            noise: where a stochastic solver takes its random numbers from.
            on_step: called with (x, t) after each step; returns the state to continue from.

        Raises:
            ValueError: if the solver is stochastic and there is no `noise`, or the process is not one for it.
        """


def require_gaussian(solver: Solver, sde: SDE) -> None:
    """Check that a process is Gaussian, for solvers that need its alpha and sigma.

    Raises:
        ValueError: if it is not, with the solvers to take instead.
    """
    if not sde.has_denoiser:
        raise ValueError(
            f"{type(solver).__name__} is for Gaussian processes, the process is {type(sde).__name__}; take "
            "TorchSDE (solver=torchsde), ScipyODE (solver=scipy), or for a linear process SymmetricSplitting "
            "(solver=symmetric_splitting)"
        )


def require_noise(solver: Solver, noise: Noise | None) -> Noise:
    """The noise, if there is one.

    Raises:
        ValueError: if there is none.
    """
    if noise is None:
        raise ValueError(f"noise: expected a solvers.Noise, since {type(solver).__name__} is stochastic, got None")
    return noise


class Trajectory(NamedTuple):
    """The states a solver passed through.

    Attributes:
        x: the last of them, `[batch, ...]`, on the device of the model.
        times: from T to the end, each once, `[n]`; 0 stands for the data.
        states: `[n, batch, ...]`, on the host.
    """

    x: Tensor
    times: Tensor
    states: Tensor


@dataclass
class Recorder:
    """An `on_step` that keeps the states of a solve on the host.

    Attributes:
        on_step: called first, if there is one; what it returns is kept.
    """

    on_step: OnStep | None = None
    times: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.on_step is not None:
            x = self.on_step(x, t)
        self.keep(x, t)
        return x

    def keep(self, x: Tensor, t: Tensor) -> None:
        """Keep a state."""
        self.times.append(torch.as_tensor(t).detach().cpu())
        self.states.append(x.detach().to("cpu", copy=True))


@overload
def sample(
    model: Model,
    solver: Solver,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    *,
    x_T: Tensor | None = None,
    trajectory: Literal[False] = False,
    on_step: OnStep | None = None,
    differentiable: bool = False,
    first: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor: ...


@overload
def sample(
    model: Model,
    solver: Solver,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    *,
    x_T: Tensor | None = None,
    trajectory: Literal[True],
    on_step: OnStep | None = None,
    differentiable: bool = False,
    first: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Trajectory: ...


def sample(
    model: Model,
    solver: Solver,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    *,
    x_T: Tensor | None = None,
    trajectory: bool = False,
    on_step: OnStep | None = None,
    differentiable: bool = False,
    first: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor | Trajectory:
    """Samples of a model by a solver.

    Sample i of a seed is the same whatever the batch, since random numbers are drawn for each sample.

    Args:
        model: has `sde` and `denoise(x, t)` (or `score`).
        solver: how to go from T to the data, such as `solvers.Adams(steps=20)`.
        shape: `[batch, ...]` of the samples; not needed with `x_T`.
        seed: of the starting points and of the solver's noise.
        x_T: starting points, in place of draws from the prior.
        trajectory: also return the states on the way.
        on_step: called with (x, t) after each step of the solver, which continues from the state that it returns. A
            solver with adaptive steps calls it at the times in its own `times`.
        differentiable: keep the graph, so that gradients reach `x_T` and the model's parameters. The model's
            activations are not kept: each evaluation runs again in the backward pass. Only solvers on a fixed grid
            can do this.
        first: index of the first sample, when the batch is a part of a larger one.
        device, dtype: those of the model by default; not used with `x_T`.

    Returns:
        x `[batch, ...]`, or a `Trajectory`, whose `x` is the last of its states.

    Raises:
        ValueError: if neither shape nor x_T is given, or both with different shapes; if the solver is not for the
            model's process, or cannot be differentiated although this is asked for.
        TypeError: if the model or the solver is not one, or the model returns something unlike x.
    """
    require_model(model)
    require_solver(solver)
    solver.require_process(model.sde)
    if differentiable and not solver.differentiable:
        raise ValueError(
            f"differentiable: gradients cannot be taken through {type(solver).__name__}; take a solver on a fixed "
            "grid, such as Adams, DDIM or Heun"
        )
    x = start(model, shape, seed, x_T, first, device, dtype)
    noise = None
    if solver.stochastic:
        noise = Noise(seed, tuple(x.shape), first=first, stream=STEPS, dtype=x.dtype, device=x.device)
    with torch.set_grad_enabled(differentiable):
        if not trajectory:
            return solver.solve(model, x, noise, on_step)
        recorder = Recorder(on_step)
        recorder.keep(x, torch.tensor(model.sde.T, dtype=x.dtype))
        x = solver.solve(model, x, noise, recorder)
    return Trajectory(x, torch.stack(recorder.times), torch.stack(recorder.states))


def require_solver(solver: Solver) -> None:
    """Check that an object is a solver.

    Raises:
        TypeError: if it is a name, a class or anything else, with what to pass.
    """
    if isinstance(solver, Solver):
        return
    got = f"got {type(solver).__name__}"
    if isinstance(solver, str):
        got = f"got the name {solver!r}"
    elif isinstance(solver, type):
        got = f"got the class {solver.__name__}; write {solver.__name__}()"
    raise TypeError(f"solver: expected a solver such as solvers.DDIM(steps=50), {got}")


def start(
    model: Model,
    shape: tuple[int, ...] | None,
    seed: int,
    x_T: Tensor | None,
    first: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """The starting points: as given, or drawn from the process's prior. See `sample` for the arguments."""
    if x_T is not None:
        if not isinstance(x_T, Tensor) or not x_T.is_floating_point() or x_T.ndim < 2:
            got = f"{list(x_T.shape)} of {x_T.dtype}" if isinstance(x_T, Tensor) else type(x_T).__name__
            raise ValueError(f"x_T: expected a floating-point tensor [batch, ...], got {got}")
        if shape is not None and tuple(shape) != tuple(x_T.shape):
            raise ValueError(f"shape: expected that of x_T, {list(x_T.shape)}, or none, got {list(shape)}")
        return x_T
    if shape is None or len(shape) < 2:
        raise ValueError(f"shape: expected (batch, ...), or give x_T; got {shape}")
    own_device, own_dtype = place_of(model)
    device, dtype = own_device if device is None else device, own_dtype if dtype is None else dtype
    eps = Noise(seed, tuple(shape), first=first, stream=PRIOR, dtype=dtype, device=device)()
    prior = model.sde.prior
    if prior is None:
        raise ValueError(f"x_T: expected starting points, since {type(model.sde).__name__} has no prior to draw from")
    return prior.from_noise(eps)
