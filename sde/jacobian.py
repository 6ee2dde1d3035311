"""Products with the Jacobian of a field: J v by forward differentiation, J^T v by backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

VectorField = Callable[[Tensor], Tensor]
"""A vector field, from `[batch, ...]` to the same shape. Its value at a sample depends on that sample alone."""


@contextmanager
def graph_kept() -> Iterator[None]:
    """Operations keep their graph, also within `torch.no_grad` and `torch.inference_mode`."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.enable_grad():
            yield
    else:
        with torch.enable_grad():
            yield


def start_of_graph(z: Tensor) -> Tensor:
    """z as the start of a graph, to be called where graphs are kept. A tensor of inference mode is copied."""
    return (z.clone() if z.is_inference() else z.detach()).requires_grad_()


def with_graph(field: VectorField, z: Tensor) -> tuple[Tensor, Tensor]:
    """Points that a graph begins at, and v there."""
    with graph_kept():
        point = start_of_graph(z)
        return point, field(point)


def pulled_back(value: Tensor, point: Tensor, vectors: Tensor, create_graph: bool = False) -> Tensor:
    """J^T e for each of k vectors e, `[k, batch, ...]`, by backward passes through the graph of `with_graph`.

    All passes run at once. They run one after the other if an operation of the field cannot do that, as fused attention
    and compiled networks cannot.

    Args:
        value: v.
        point: where the graph begins.
        vectors: e.
        create_graph: whether the result is to have derivatives itself.
    """

    def passed(e: Tensor, batched: bool = False) -> Tensor:
        return torch.autograd.grad(
            value, point, e, retain_graph=True, create_graph=create_graph, is_grads_batched=batched
        )[0]

    if len(vectors) > 1:
        try:
            return passed(vectors, batched=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            pass
    return torch.stack([passed(vector) for vector in vectors])


def pushed_forward(field: VectorField, z: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """v(z) `[batch, ...]`, and J e for each of k vectors e, `[k, batch, ...]`, by forward differentiation."""

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(field, (z,), (direction.expand_as(z),))[:2]

    if len(vectors) == 1:
        value, slope = along(vectors[0])
        return value, slope.unsqueeze(0)
    each = torch.func.vmap(along, out_dims=(None, 0))  # type: ignore[arg-type]
    return each(vectors)
