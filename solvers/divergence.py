"""The divergence of a vector field: exact, or estimated from Jacobian-vector products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]
"""A vector field, from `[batch, ...]` to the same shape, sample by sample."""


def products(field: Field, z: Tensor, probes: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """v(z) and v's Jacobian between probes, e^T (dv/dz) e, in forward mode.

    The mean over random e with E[e e^T] = I is the divergence (Hutchinson 1990; Skilling 1989).
    The field itself is evaluated once, however many probes there are.

    Args:
        field: v, differentiable in forward mode.
        z: the points, `[batch, ...]`.
        probes: e, `[k, batch, ...]`, or `[k, 1, ...]` for probes that all samples share.
        chunk: how many of the k products are in memory at once; all of them by default.

    Returns:
        v `[batch, ...]` and the k products `[k, batch]`.
    """

    def product(probe: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = torch.func.jvp(field, (z,), (probe.expand_as(z),))[:2]
        return value, (slope * probe).flatten(1).sum(1)

    if len(probes) == 1:
        value, along = product(probes[0])
        return value, along.unsqueeze(0)
    each = torch.func.vmap(product, out_dims=(None, 0))  # type: ignore[arg-type]
    parts = [each(part) for part in probes.split(chunk or len(probes))]
    return parts[0][0], torch.cat([along for _, along in parts])


def divergence(field: Field, z: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """v(z) and div v, exactly: the sum of `products` over the unit vectors.

    Args:
        field: v, differentiable in forward mode.
        z: the points, `[batch, ...]`.
        chunk: how many unit vectors are in memory at once; all by default.

    Returns:
        v `[batch, ...]` and div v `[batch]`.
    """
    size = z[0].numel()
    chunk = size if chunk is None else min(chunk, size)
    total = z.new_zeros(len(z))
    value = z
    for start in range(0, size, chunk):
        units = torch.zeros(min(chunk, size - start), size, dtype=z.dtype, device=z.device)
        units.diagonal(start).fill_(1)
        value, along = products(field, z, units.reshape(-1, 1, *z.shape[1:]))
        total = total + along.sum(0)
    return value, total
