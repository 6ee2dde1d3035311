"""Simulate the paths of any SDE with the Euler-Maruyama method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.sde import SDE
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.tensor_checks import require_state
from backdrift.solvers.noise import Noise
from backdrift.solvers.stochastic.brownian import BrownianPath


@torch.no_grad()
def simulate(
    sde: SDE,
    x0: Tensor,
    times: Tensor | Sequence[float],
    seed: int = 0,
    *,
    first: int = 0,
    path: BrownianPath | None = None,
) -> Tensor:
    """Simulate paths of an SDE with the Euler-Maruyama method:

        x' = x + f(x, t) (t' - t) + g(x, t) sqrt(|t' - t|) z.

    With times that fall, this runs a `ReverseSDE` from noise to data. Maruyama (1955). The weak order is 1. The strong
    order is 1/2, or 1 if g does not depend on x.

    Args:
        sde: the process, or the reverse of one.
        x0: the states at `times[0]`, `[batch, ...]`.
        times: the times, `[n]`, which rise or fall throughout.
        seed: the seed. Path i of a seed is the same in a batch of any size.
        first: the index of the first path, if this batch is a part of a larger one.
        path: the Brownian motion w, which solves with other times can share. By default the noise is drawn with `seed`.

    Returns:
        The paths, `[n, batch, ...]`, starting with `x0`.

    Raises:
        ValueError: if the times do not rise or fall throughout, if `path` does not have the shape of w, or if a network
            in the score of a reverse process is in training mode and has dropout or batch normalisation.
        TypeError: if `x0` is not a floating-point tensor.
    """
    require_state(x0, "x0")
    require_evaluation_mode(getattr(sde, "score", None), "sde")  # the score of a reverse process
    times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    steps = times.diff()
    if times.ndim != 1 or not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise ValueError(f"times: expected times that rise or fall throughout, got {times.tolist()}")
    shape = sde.noise_shape(x0)
    if path is not None and path.shape != shape:
        raise ValueError(
            f"path: expected one of shape {list(shape)} for {sde.noise_type} noise, got {list(path.shape)}"
        )
    noise = Noise(seed, shape, first=first, dtype=x0.dtype, device=x0.device) if path is None else path.along(times)
    states = x0.new_empty(len(times), *x0.shape)
    states[0] = x = x0
    now = times.to(x0)  # times on the device of x, so that the loop never waits for the device
    for k, h in enumerate(steps.tolist()):
        x = x + h * sde.drift(x, now[k]) + abs(h) ** 0.5 * sde.apply_noise(x, now[k], noise())
        states[k + 1] = x
    return states
