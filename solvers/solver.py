"""What a solver is, and `sample`, which puts a model and a solver together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.model import denoiser_of, place_of
from backdrift.solvers.noise import PRIOR, STEPS, Noise

OnStep = Callable[[Tensor, Tensor], Tensor]


class Solver(ABC):
    """Carries a state from T to the end of a process, backwards.

    Attributes:
        stochastic: whether it draws noise on the way.
    """

    stochastic: bool = False

    @abstractmethod
    def solve(self, model: Any, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        """The state at the end, from `x` `[batch, ...]` at T.

        Args:
            model: has `sde` and `denoise(x, t)`.
            x: the state at T.
            noise: where a stochastic solver takes its random numbers from.
            on_step: called with (x, t) after each step; returns the state to go on from.
        """


def require_steps(steps: Any, least: int = 1) -> None:
    """Raise `ValueError` unless `steps` is an integer of at least `least`."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"steps: expected an integer of at least {least}, got {steps!r}")


class Trajectory(NamedTuple):
    """The states a solver passed through.

    Attributes:
        x: the last state, `[batch, ...]`.
        times: from T to the end, `[n]`; 0 stands for the data.
        states: `[n, batch, ...]`, on the host.
    """

    x: Tensor
    times: Tensor
    states: Tensor


@dataclass
class Recorder:
    """Keeps the states of a solve on the host, as an `on_step`."""

    times: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(torch.as_tensor(t).detach().cpu())
        self.states.append(x.detach().to("cpu", copy=True))
        return x


@torch.no_grad()
def sample(
    model: Any,
    solver: Solver,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    *,
    x_T: Tensor | None = None,
    trajectory: bool = False,
    first: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Samples of a model by a solver.

    Sample i of a seed is the same whatever the batch: draws are per sample.

    Args:
        model: has `sde` and `denoise(x, t)` (or `score`).
        solver: how to go from T to the data.
        shape: `[batch, ...]` of the samples; not needed with `x_T`.
        seed: of the starting points and of the solver's noise.
        x_T: starting points, in place of draws from the prior.
        trajectory: also return the states on the way.
        first: index of the first sample, when the batch is a part of a larger one.
        device, dtype: those of the model by default.

    Returns:
        x `[batch, ...]`, or a `Trajectory`.

    Raises:
        ValueError: if neither shape nor x_T is given, or both with different shapes.
        TypeError: if the model has not what a solver asks for.
    """
    denoiser_of(model)
    if x_T is not None:
        if shape is not None and tuple(shape) != tuple(x_T.shape):
            raise ValueError(f"shape: expected that of x_T, {list(x_T.shape)}, or none, got {list(shape)}")
        x = x_T
    elif shape is None or len(shape) < 2:
        raise ValueError(f"shape: expected (batch, ...), or give x_T; got {shape}")
    else:
        of_device, of_dtype = place_of(model)
        device = of_device if device is None else device
        dtype = of_dtype if dtype is None else dtype
        start = Noise(seed, tuple(shape), first=first, stream=PRIOR, dtype=dtype, device=device)()
        x = model.sde.prior.from_noise(start)
    noise = None
    if solver.stochastic:
        noise = Noise(seed, tuple(x.shape), first=first, stream=STEPS, dtype=x.dtype, device=x.device)
    if not trajectory:
        return solver.solve(model, x, noise)
    recorder = Recorder()
    recorder(x, torch.tensor(model.sde.T, dtype=x.dtype))
    x = solver.solve(model, x, noise, recorder)
    return Trajectory(x, torch.stack(recorder.times), torch.stack(recorder.states))
