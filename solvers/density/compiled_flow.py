"""The probability flow with its velocity and its exact divergence as compiled graphs."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from backdrift.solvers.compilation import CompiledFunction
from backdrift.solvers.density.divergence import Mode
from backdrift.solvers.flows.angle_flow import AngleFlow, Place
from backdrift.solvers.flows.flow import Flow
from backdrift.solvers.model import Field


class CompiledFlow(AngleFlow):
    """An `AngleFlow` whose velocity and exact divergence are compiled, each into one graph.

    The coefficients that depend on the time are arguments of the graphs, so that one graph serves all times, any number
    of steps, and all later calls with a model of the same structure. The values are those of the flow up to rounding.

    Args:
        path: the flow.
        chunk: how many products with the Jacobian are in memory at once.
        mode: how products with the Jacobian are found.

    Raises:
        ValueError: if the process is not Gaussian.
    """

    def __init__(self, path: Flow, chunk: int, mode: Mode) -> None:
        if not isinstance(path, AngleFlow):
            raise ValueError("compile: expected a model of a Gaussian process, got one of another process")
        vars(self).update(vars(path))
        self.chunk, self.mode = chunk, mode

    def velocity(self, z: Tensor, u: float | Tensor | Place) -> Tensor:
        at = self._place(u, z)
        return _graphs(z.device)[0](self.denoise, z, at.t, at.scale, at.keep, at.gain)

    def divergence(self, z: Tensor, u: float | Tensor | Place) -> Tensor | None:
        if self.posterior_variance is not None:
            return super().divergence(z, u)
        at = self._place(u, z)
        return _graphs(z.device)[1](self.denoise, z, at.t, at.scale, at.keep, at.gain, self.chunk, self.mode)


@functools.cache
def _graphs(device: torch.device) -> tuple[CompiledFunction, CompiledFunction]:
    """The compiled velocity and the compiled divergence on a device."""
    return CompiledFunction(_velocity, device, None), CompiledFunction(_divergence, device, None)


def _velocity(denoise: Field, z: Tensor, t: Tensor, scale: Tensor, keep: Tensor, gain: Tensor) -> Tensor:
    """See `AngleFlow.velocity`."""
    return torch.addcmul(keep * z, gain, denoise(scale * z, t))


def _divergence(
    denoise: Field, z: Tensor, t: Tensor, scale: Tensor, keep: Tensor, gain: Tensor, chunk: int, mode: Mode
) -> Tensor:
    """The divergence of `_velocity`, `[batch]`, by `torch.func`, which a graph can hold and autograd's calls cannot."""

    def field(z: Tensor) -> Tensor:
        return _velocity(denoise, z, t, scale, keep, gain)

    size = z[0].numel()
    total = z.new_zeros(len(z))
    units = torch.eye(size, dtype=z.dtype, device=z.device).reshape(size, 1, *z.shape[1:])
    pull = torch.func.vjp(field, z)[1] if mode == "reverse" else None
    for part in units.split(chunk):

        def along(unit: Tensor) -> Tensor:
            unit = unit.expand_as(z)
            slope = torch.func.jvp(field, (z,), (unit,))[1] if pull is None else pull(unit)[0]
            return (slope * unit).flatten(1).sum(1)

        total = total + torch.func.vmap(along)(part).sum(0)
    return total
