"""Products with the Jacobian of a field: J v by forward differentiation, J^T v by backward passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VectorField = Callable[[Tensor], Tensor]
"""A vector field, from `[batch, ...]` to the same shape. Its value at a sample depends on that sample alone."""


def with_graph(field: VectorField, z: Tensor) -> tuple[Tensor, Tensor]:
    """Points that a graph begins at, and v there."""
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        return point, field(point)


def pulled_back(value: Tensor, point: Tensor, vectors: Tensor) -> Tensor:
    """J^T e for each of k vectors e, `[k, batch, ...]`, by backward passes through the graph of `with_graph`.

    All passes run at once. They run one after the other if an operation of the field cannot do that, as fused attention
    and compiled networks cannot.
    """
    if len(vectors) > 1:
        try:
            return torch.autograd.grad(value, point, vectors, retain_graph=True, is_grads_batched=True)[0]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            pass
    return torch.stack([torch.autograd.grad(value, point, vector, retain_graph=True)[0] for vector in vectors])


def pushed_forward(field: VectorField, z: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """v(z) `[batch, ...]`, and J e for each of k vectors e, `[k, batch, ...]`, by forward differentiation."""

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(field, (z,), (direction.expand_as(z),))[:2]

    if len(vectors) == 1:
        value, slope = along(vectors[0])
        return value, slope.unsqueeze(0)
    each = torch.func.vmap(along, out_dims=(None, 0))  # type: ignore[arg-type]
    return each(vectors)
