"""Linear systems by conjugate gradients, each sample of a batch by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    iterations: int,
    tolerance: float,
    precondition: Callable[[Tensor], Tensor] = lambda r: r,
) -> Tensor:
    """u with S u = b for each sample, by preconditioned conjugate gradients (Hestenes & Stiefel 1952; Saad 2003,
    algorithm 9.1).

    A sample stops when |b - S u| <= tolerance |b|. It is then left as it is while others go on, so that it does not
    depend on them. It also stops where S turns out not to be positive along a direction.

    Args:
        product: u to S u, `[batch, m]`, with S symmetric and positive for each sample.
        b: `[batch, m]`.
        iterations: at most so many products.
        tolerance: of the residual, relative to b.
        precondition: r to M^{-1} r, with M near S, symmetric and positive.
    """
    u, r = torch.zeros_like(b), b
    z = precondition(r)
    p, rz = z, (r * z).sum(1)
    target = tolerance * b.norm(dim=1)
    for _ in range(iterations):
        going = r.norm(dim=1) > target
        if not bool(going.any()):
            break
        s = product(p)
        curvature = (p * s).sum(1)
        going = going & (curvature > 0)
        step = torch.where(going, rz / curvature, 0.0).unsqueeze(1)
        u, r = u + step * p, r - step * s
        z = precondition(r)
        new = (r * z).sum(1)
        p = torch.where(going.unsqueeze(1), z + (new / rz).unsqueeze(1) * p, p)
        rz = torch.where(going, new, rz)
        target = torch.where(going, target, torch.inf)  # a sample that stopped stays so
    return u
