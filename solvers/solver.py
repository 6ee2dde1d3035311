"""The base class of all solvers, and `sample`, which draws samples of a model with a solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from backdrift.sde import SDE
from backdrift.sde.tensor_checks import require_finite, require_sizes
from backdrift.solvers.model import ModelLike, place_of, prior_of, require_model
from backdrift.solvers.noise import PRIOR, STEPS, Noise

OnStep = Callable[[Tensor, Tensor], Tensor]
"""A function that a solver calls with (x, t) after each step. It returns the state to continue from."""


class Solver(ABC):
    """The base class of solvers: a solver carries a state backwards in time, from T to the end near the data.

    All solvers keep the same contract:

    - A step leads from one time of the grid to the next. After each step the solver calls `on_step(x, t)`, with times
      that fall, and continues from the state that `on_step` returns. The last state returned is the result.
    - A solver that chooses its own steps calls `on_step` at the times in its argument `save_at` instead.
    - If the solver ends with a denoising step, `on_step` is called after it with t = 0.
    - A solver never changes the dtype of the state.
    """

    @property
    def stochastic(self) -> bool:
        """Whether the solver draws random numbers during the solve."""
        return False

    @property
    def differentiable(self) -> bool:
        """Whether gradients can be taken through `solve`."""
        return False

    def require_process(self, sde: SDE) -> None:  # noqa: B027, a solver without limits leaves it as it is
        """Check that the solver works for a process. By default a solver works for every process.

        Raises:
            ValueError: if it does not work for this one. The message names solvers that do.
        """

    @abstractmethod
    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """Solve from the state `x` at T to the end, and return the state there, shaped like `x`.

        Args:
            model: a model with `sde`, and `denoise(x, t)` or `score(x, t)`.
            x: the state at T, `[batch, ...]`.
            noise: the source of random numbers. Only stochastic solvers use it.
            on_step: called with (x, t) after each step. The solver continues from the state that it returns.

        Raises:
            ValueError: if the solver is stochastic and no `noise` is given, or if it does not work for the process.
        """


def require_gaussian(solver: Solver, sde: SDE) -> None:
    """Check that a process is Gaussian. Solvers that use its alpha and sigma call this.

    Raises:
        ValueError: if it is not Gaussian. The message names solvers that work for other processes.
    """
    if not sde.has_denoiser:
        raise ValueError(
            f"{type(solver).__name__} is for Gaussian processes, the process is {type(sde).__name__}; take "
            "solver=torchsde (TorchSDE), solver=scipy (ScipyODE), or for a linear process solver=symmetric_splitting "
            "(SymmetricSplitting)"
        )


def end_time(sde: SDE, eps: float | None) -> float:
    """The time at which a solve ends: `eps` if it is given, else the process's own.

    Raises:
        ValueError: if it is not in [0, T).
    """
    eps = float(sde.eps if eps is None else eps)
    if not 0 <= eps < sde.T:
        raise ValueError(f"eps: expected a time in [0, T = {sde.T:g}), got {eps:g}")
    return eps


def require_noise(solver: Solver, noise: Noise | None) -> Noise:
    """Return `noise` if it was given to a stochastic solver.

    Raises:
        ValueError: if it was not given.
    """
    if noise is None:
        raise ValueError(f"noise: expected a solvers.Noise, since {type(solver).__name__} is stochastic, got None")
    return noise


class Trajectory(NamedTuple):
    """The states that a solver passed through.

    Attributes:
        x: the last state, `[batch, ...]`, on the device of the model.
        times: the times of the states, `[n]`. They fall from T to the end, and each time occurs once. The time 0 means
            that the state is the result of the last denoising step.
        states: the states at these times, `[n, batch, ...]`, on the CPU.
    """

    x: Tensor
    times: Tensor
    states: Tensor


@dataclass
class Recorder:
    """An `on_step` that keeps a copy of each state of a solve on the CPU.

    Attributes:
        on_step: another `on_step`, which is called first. The state that it returns is the one that is kept.
        times: the times of the states kept so far, where they came from, so that nobody waits for them.
        states: the states kept so far.
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
        """Keep a copy of the state x at time t."""
        self.times.append(torch.as_tensor(t).detach())
        self.states.append(x.detach().to("cpu", copy=True))


@overload
def sample(
    model: ModelLike,
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
    model: ModelLike,
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
    model: ModelLike,
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
    """Draw samples of a model with a solver.

    Starting points are drawn from the prior at T, and the solver carries them to the data. The prior has the moments of
    the data if the model knows them; otherwise it is the process's own. Random numbers
    are drawn for each sample separately, so sample i of a seed is the same in a batch of any size.

    Args:
        model: a model with `sde`, and `denoise(x, t)` or `score(x, t)`.
        solver: the solver, such as `solvers.Adams(steps=20)`.
        shape: the shape of the samples, `[batch, ...]`. It is not needed if `x_T` is given.
        seed: the seed of the starting points and of the solver's noise.
        x_T: the starting points at T, `[batch, ...]`. By default they are drawn from the prior.
        trajectory: whether to return the states on the way as well.
        on_step: called with (x, t) after each step. The solver continues from the state that it returns. A solver that
            chooses its own steps calls it at the times in its argument `save_at`.
        differentiable: whether gradients should reach `x_T` and the model's parameters. To save memory, the model's
            activations are not kept, and each evaluation runs again in the backward pass. Only solvers on a fixed
            grid can do this.
        first: the index of the first sample, if this batch is a part of a larger one.
        device: the device of the samples. By default it is the model's. It is not used if `x_T` is given.
        dtype: the dtype of the samples. By default it is the model's. It is not used if `x_T` is given.

    Returns:
        The samples, `[batch, ...]`, or a `Trajectory` if `trajectory` is true.

    Raises:
        ValueError: if neither `shape` nor `x_T` is given, or if their shapes differ; if the solver does not work for
            the model's process; or if `differentiable` is true and the solver cannot be differentiated.
        TypeError: if `model` is not a model or `solver` not a solver, or if the model returns a value whose shape or
            dtype is not that of x.
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
        recorder.keep(x, torch.full((), model.sde.start, dtype=x.dtype, device=x.device))
        x = solver.solve(model, x, noise, recorder)
    return Trajectory(x, torch.stack([t.to(x.device) for t in recorder.times]).cpu(), torch.stack(recorder.states))


def require_solver(solver: Solver) -> None:
    """Check that an object is a solver.

    Raises:
        TypeError: if it is a name, a class or anything else. The message says what to pass.
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
    model: ModelLike,
    shape: tuple[int, ...] | None,
    seed: int,
    x_T: Tensor | None,
    first: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """Return the starting points: `x_T` if it is given, else draws from the prior of the model.

    The arguments and errors are those of `sample`. It also raises `ValueError` if the process has no prior.
    """
    if x_T is not None:
        if not isinstance(x_T, Tensor) or not x_T.is_floating_point() or x_T.ndim < 2:
            got = f"{list(x_T.shape)} of {x_T.dtype}" if isinstance(x_T, Tensor) else type(x_T).__name__
            raise ValueError(f"x_T: expected a floating-point tensor [batch, ...], got {got}")
        require_finite("x_T", x_T)
        if shape is not None and tuple(shape) != tuple(x_T.shape):
            raise ValueError(f"shape: expected that of x_T, {list(x_T.shape)}, or none, got {list(shape)}")
        return x_T
    if shape is None:
        raise ValueError("shape: expected (batch, ...), or give x_T; got None")
    require_sizes(shape, 2)
    device, dtype = _place(model, device, dtype)
    eps = Noise(seed, tuple(shape), first=first, stream=PRIOR, dtype=dtype, device=device)()
    prior = prior_of(model)
    if prior is None:
        raise ValueError(f"x_T: expected starting points, since {type(model.sde).__name__} has no prior to draw from")
    try:
        return prior.from_noise(eps)
    except ValueError as error:
        raise ValueError(f"shape: expected one that the prior has, got {tuple(shape)}: {error}") from None


def _place(
    model: ModelLike, device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype of samples: as asked for, or the model's own."""
    own_device, own_dtype = place_of(model)
    dtype = own_dtype if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating-point one, such as torch.float32, got {dtype!r}")
    if device is None:
        return own_device, dtype
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected the name of one, such as 'cpu' or 'cuda', got {device!r}") from None
    try:
        torch.empty(0, device=place)
    except (AssertionError, NotImplementedError, RuntimeError):  # what torch raises depends on the device
        raise ValueError(f"device: expected one that is there, got {device!r}, which torch does not find") from None
    return place, dtype
