"""Data through the latent space of the probability flow: there, back, and between two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from backdrift.solvers.flows.dormand_prince import Control, adaptive
from backdrift.solvers.flows.fixed_grid import TABLEAUS, fixed
from backdrift.solvers.flows.flow import Flow, flow
from backdrift.solvers.tables.grid import Grid


@dataclass(frozen=True)
class Encoded:
    """Latents and how well they come back.

    Attributes:
        latent: states at T, like x.
        round_trip_error: root mean square over components of x less its decoded latent, `[batch]`.
    """

    latent: Tensor
    round_trip_error: Tensor


def encode(model: Any, x: Tensor, **settings: Any) -> Encoded:
    """The states at T that the probability flow takes x to (Song et al. 2021, section 4.3), and the round
    trip's error.

    Args:
        model: has `sde` and `denoise(x, t)`, or `score(x, t)` where `sde` is not Gaussian.
        x: states at eps, `[batch, ...]`.
        settings: `steps`, `method`, `grid`, `rtol`, `atol`, `eps`, `data_std` as in `log_likelihood`.
    """
    latent = _carry(model, x, back=False, **settings)
    error = (_carry(model, latent, back=True, **settings) - x).flatten(1).square().mean(1).sqrt()
    return Encoded(latent, error)


def decode(model: Any, latent: Tensor, **settings: Any) -> Tensor:
    """The states at eps that the probability flow takes states at T to, `[batch, ...]`.

    Args:
        model: has `sde` and `denoise(x, t)`, or `score(x, t)` where `sde` is not Gaussian.
        latent: states at T, `[batch, ...]`.
        settings: as in `encode`.
    """
    return _carry(model, latent, back=True, **settings)


def interpolate(model: Any, a: Tensor, b: Tensor, points: int = 9, **settings: Any) -> Tensor:
    """Data between a and b, `[points, batch, ...]`, both ends included: along the great circle between
    their latents (`slerp`), decoded.

    Args:
        model: has `sde` and `denoise(x, t)`.
        a, b: states at eps, `[batch, ...]`.
        points: how many, at least 2.
        settings: as in `encode`.

    Raises:
        ValueError: if `points` is below 2 or the shapes differ.
    """
    if points < 2 or a.shape != b.shape:
        raise ValueError(f"points, a, b: expected at least 2 and one shape, got {points}, {a.shape} and {b.shape}")
    start, end = (_carry(model, x, back=False, **settings) for x in (a, b))
    latents = torch.stack([slerp(start, end, share) for share in torch.linspace(0, 1, points).tolist()])
    return decode(model, latents.flatten(0, 1), **settings).reshape(latents.shape)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point a share of the way along the great circle from a to b, sample by sample (Shoemake 1985):

    [sin((1 - share) w) a + sin(share w) b] / sin w,    w the angle between a and b.
    """
    dot = (a * b).flatten(1).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
    w = torch.acos(dot.clamp(-1 + 1e-6, 1 - 1e-6)).reshape(-1, *(1,) * (a.ndim - 1))
    return (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)


@torch.no_grad()
def _carry(
    model: Any,
    x: Tensor,
    *,
    back: bool,
    steps: int = 32,
    method: Literal["rk4", "heun", "midpoint", "adaptive"] = "rk4",
    grid: Grid | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    eps: float | None = None,
    data_std: float | None = None,
) -> Tensor:
    path: Flow = flow(model, data_std, eps)
    start, end = (path.last, path.first) if back else (path.first, path.last)
    at_data, at_noise = (math.exp(-scale(x[:1])[1]) for scale in (path.enter, path.leave))
    scale_in, scale_out = (at_noise, at_data) if back else (at_data, at_noise)
    z = x / scale_in
    if method == "adaptive":
        z = adaptive(path, z, Control(rtol, atol), start=start, end=end).z
    elif method in TABLEAUS:
        nodes = path.nodes(grid, steps)
        nodes = nodes[::-1] if back else nodes
        z = fixed(z, nodes, TABLEAUS[method], lambda y, u, weight, place: path.velocity(y, u))
    else:
        raise ValueError(f"method: expected 'adaptive' or one of {', '.join(TABLEAUS)}, got {method!r}")
    return z * scale_out
