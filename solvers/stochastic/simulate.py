"""Any SDE, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.sde import SDE
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
    """Euler-Maruyama paths of any SDE, the lectures' x + h f(x) + sqrt(h) g z:

        x' = x + f(x, t) (t' - t) + g(x, t) sqrt(|t' - t|) z.

    Maruyama (1955). Weak order 1; strong order 1/2, or 1 where g does not depend on x. Times that
    fall run a `ReverseSDE` from noise to data.

    Args:
        sde: the process, forwards or reversed.
        x0: states at `times[0]`, `[batch, ...]`.
        times: rising or falling, `[n]`.
        seed: path i of a seed is the same whatever the batch.
        first: index of the first path, when the batch is a part of a larger one.
        path: the Brownian motion w, in place of fresh noise of the seed: solves on other times can share it.

    Returns:
        The whole path, `[n, batch, ...]`, its first entry x0.

    Raises:
        ValueError: if the times do not rise or fall throughout, or the path has not the shape of w.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
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
    now = times.to(x0)  # a time on the device of x, so that the loop waits for nothing
    for k, h in enumerate(steps.tolist()):
        x = x + h * sde.drift(x, now[k]) + abs(h) ** 0.5 * sde.apply_noise(x, now[k], noise())
        states[k + 1] = x
    return states
