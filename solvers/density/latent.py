"""Data through the latent space of the probability flow: there, back, and between two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice, require_integer, require_positive
from backdrift.solvers.density.arguments import require_batch, require_grid
from backdrift.solvers.flows.dormand_prince import Control, adaptive
from backdrift.solvers.flows.fixed_grid import TABLEAUS, fixed
from backdrift.solvers.flows.flow import flow
from backdrift.solvers.model import ModelLike, require_model, select
from backdrift.solvers.tables.grid import Grid

if TYPE_CHECKING:
    from typing_extensions import Unpack

Method = Literal["rk4", "heun", "midpoint", "adaptive"]


class FlowSettings(TypedDict, total=False):
    """How the probability flow is solved.

    Attributes:
        steps: of a fixed grid; 32 by default. "adaptive" does not use it.
        method: "rk4" by default.
        grid: name or times of the fixed grid; "angle" by default.
        rtol, atol: tolerances of "adaptive"; 1e-5 by default. Fixed grids do not use them.
        eps: end time at the data; the process's own by default.
        data_std: standard deviation of the data; the model's own by default, or else 1.
    """

    steps: int
    method: Method
    grid: Grid | None
    rtol: float
    atol: float
    eps: float | None
    data_std: float | None


@dataclass(frozen=True)
class Encoded:
    """Latents, how far they are from the exact ones, and how well they come back.

    The errors of the way there and of the way back nearly cancel, so that a latent may come back well and be wrong.

    Attributes:
        latent: states at T, like x.
        latent_error: root mean square over components of the latent minus that of a coarser solve, `[batch]`. It is a
            bound on the solver's error where the finer one of two solves is the better one. The coarser one takes every
            second step of a fixed grid, or ten times the tolerances and steps up to twice as long. A single step is
            compared with two.
        round_trip_error: root mean square over components of x minus its decoded latent, `[batch]`.
    """

    latent: Tensor
    latent_error: Tensor
    round_trip_error: Tensor


def encode(model: ModelLike, x: Tensor, **settings: Unpack[FlowSettings]) -> Encoded:
    """The states at T to which the probability flow takes x (Song et al. 2021, section 4.3), with their errors.

    It costs two and a half times what a solve costs on a fixed grid.

    Args:
        model: has `sde` and `denoise(x, t)`, or `score(x, t)` where `sde` is not Gaussian.
        x: states at eps, `[batch, ...]`.
        settings: see `FlowSettings`.

    Raises:
        ValueError: if an argument is out of range.
        TypeError: if the model is not one, or returns something unlike x.
    """
    require_batch(x)
    latent = _carry(model, x, back=False, **settings)
    other = _carry(model, x, back=False, coarser=True, **settings)
    again = _carry(model, latent, back=True, **settings)
    return Encoded(latent, *((a - b).flatten(1).square().mean(1).sqrt() for a, b in ((latent, other), (again, x))))


def decode(model: ModelLike, latent: Tensor, **settings: Unpack[FlowSettings]) -> Tensor:
    """The states at eps to which the probability flow takes states at T, `[batch, ...]`.

    Args:
        model: has `sde` and `denoise(x, t)`, or `score(x, t)` where `sde` is not Gaussian.
        latent: states at T, `[batch, ...]`.
        settings: see `FlowSettings`.

    Raises:
        ValueError, TypeError: as `encode`.
    """
    require_batch(latent, "latent")
    return _carry(model, latent, back=True, **settings)


def interpolate(model: ModelLike, a: Tensor, b: Tensor, points: int = 9, **settings: Unpack[FlowSettings]) -> Tensor:
    """Data between a and b: along the great circle between their latents (`slerp`), decoded.

    Args:
        model: has `sde` and `denoise(x, t)`, or `score(x, t)` where `sde` is not Gaussian.
        a, b: states at eps, `[batch, ...]`.
        points: how many, at least 2.
        settings: see `FlowSettings`.

    Returns:
        `[points, batch, ...]`; the first and the last are a and b.

    Raises:
        ValueError, TypeError: as `encode`; or if `points` is below 2 or the shapes differ.
    """
    require_integer("points", points, 2)
    require_batch(a, "a")
    require_batch(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"b: expected the shape of a, {list(a.shape)}, got {list(b.shape)}")
    start, end = (_carry(model, x, back=False, **settings) for x in (a, b))
    latents = torch.stack([slerp(start, end, share) for share in torch.linspace(0, 1, points).tolist()])
    repeated = select(model, torch.arange(len(a), device=a.device).repeat(points))
    return decode(repeated, latents.flatten(0, 1), **settings).reshape(latents.shape)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point a share of the way along the great circle from a to b, sample by sample (Shoemake 1985):

    [sin((1 - share) w) a + sin(share w) b] / sin w,    w the angle between a and b.
    """
    dot = (a * b).flatten(1).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
    # sin w stays above 0 where a and b have the same or the opposite direction.
    w = torch.acos(dot.clamp(-1 + 1e-6, 1 - 1e-6)).reshape(-1, *(1,) * (a.ndim - 1))
    return (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)


@torch.no_grad()
def _carry(
    model: ModelLike,
    x: Tensor,
    *,
    back: bool,
    coarser: bool = False,
    steps: int = 32,
    method: Method = "rk4",
    grid: Grid | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    eps: float | None = None,
    data_std: float | None = None,
) -> Tensor:
    """States at the other end of the flow: at eps if `back`, else at T. `Encoded.latent_error` says what is coarser."""
    require_model(model)
    require_choice("method", method, get_args(Method))
    require_integer("steps", steps, 1)
    require_positive(rtol=rtol, atol=atol)
    require_grid(model, method, grid)
    path = flow(model, data_std, eps)
    at_data, at_noise = (math.exp(-scale(x[:1])[1]) for scale in (path.enter, path.leave))  # x/z at both ends
    scale_in, scale_out = (at_noise, at_data) if back else (at_data, at_noise)
    z = x / scale_in
    if method == "adaptive":
        start, end = (path.last, path.first) if back else (path.first, path.last)
        control = Control(10 * rtol, 10 * atol, longest=0.2) if coarser else Control(rtol, atol)
        return adaptive(path, z, control, start=start, end=end).z * scale_out
    nodes: Sequence[float] = path.nodes(grid, steps)
    if coarser:
        last = nodes[-1]
        nodes = [*nodes[:-1:2], last] if len(nodes) > 2 else [nodes[0], (nodes[0] + last) / 2, last]
    z = fixed(
        z,
        nodes[::-1] if back else nodes,
        TABLEAUS[method],
        lambda z, u, weight, place: path.velocity(z, u),
    )
    return z * scale_out
