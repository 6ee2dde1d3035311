"""Linear systems by generalised minimal residuals, each sample of a batch by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """The solution of a linear system, and what it is made of.

    Attributes:
        u: `[batch, m]`, the sum over k of `weights[:, k]` times the vector that the k-th product was of. What is linear
            in u follows from its values at these vectors, without another product.
        weights: `[batch, products]`.
    """

    u: Tensor
    weights: Tensor


def gmres(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    iterations: int,
    tolerance: float,
    precondition: Callable[[Tensor], Tensor] = lambda r: r,
) -> Solution:
    r"""u with S u = b for each sample, by the generalised minimal residual method (Saad & Schultz 1986; Saad 2003,
    algorithm 9.5, with preconditioning on the right).

    After k products u has the least :math:`|b - S u|` of all M^{-1} v with v in the span of b, S M^{-1} b, ...,
    :math:`(S M^{-1})^{k-1} b`. The residual never grows, whatever S is. That matters where S comes from a network,
    whose Jacobian is neither symmetric nor positive: conjugate gradients then diverge.

    A sample stops when |b - S u| <= tolerance |b|. It is then left as it is while others go on, so that it does not
    depend on them.

    Args:
        product: u to S u, `[batch, m]`.
        b: `[batch, m]`.
        iterations: at most so many products. As many vectors like b are kept.
        tolerance: of the residual, relative to b.
        precondition: r to M^{-1} r, with M near S.
    """
    tiny = torch.finfo(b.dtype).tiny
    rest = b.norm(dim=1)  # |rest| is the norm of the residual
    target = tolerance * rest
    basis = [b / rest.clamp(min=tiny).unsqueeze(1)]
    directions: list[Tensor] = []
    rotations: list[tuple[Tensor, Tensor]] = []
    triangle = b.new_zeros(len(b), iterations, iterations)
    right = b.new_zeros(len(b), iterations)
    for k in range(iterations):
        going = rest.abs() > target
        if not bool(going.any()):
            break
        directions.append(precondition(basis[k]))
        column, following = _orthogonalised(product(directions[k]), basis)
        basis.append(following / column[k + 1].clamp(min=tiny).unsqueeze(1))
        for j, (cosine, sine) in enumerate(rotations):
            upper, lower = column[j], column[j + 1]
            column[j], column[j + 1] = cosine * upper + sine * lower, cosine * lower - sine * upper
        length = torch.hypot(column[k], column[k + 1])
        going = going & (length > tiny)
        cosine, sine = (torch.where(going, c / length.clamp(min=tiny), 0.0) for c in column[k:])
        rotations.append((cosine, sine))
        # A sample that has stopped gets the equation 1 y = 0.
        column[k : k + 2] = [torch.where(going, length, 1.0)]
        triangle[:, : k + 1, k] = torch.stack([torch.where(going, c, 0.0) for c in column[:k]] + column[k:], 1)
        right[:, k] = torch.where(going, cosine * rest, 0.0)
        rest = torch.where(going, -sine * rest, rest)
        target = torch.where(going, target, torch.inf)  # a sample that stopped stays so
    if not directions:
        return Solution(torch.zeros_like(b), b.new_zeros(len(b), 0))
    k = len(directions)
    weights = torch.linalg.solve_triangular(triangle[:, :k, :k], right[:, :k, None], upper=True).squeeze(2)
    return Solution(torch.einsum("bk,kbm->bm", weights, torch.stack(directions)), weights)


def _orthogonalised(vector: Tensor, basis: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The components of a vector along a basis and the norm of the rest, `[batch]` each; and the rest.

    The basis is subtracted twice, since rounding leaves a part of it after the first time.
    """
    components = [torch.zeros_like(vector[:, 0]) for _ in basis]
    for _ in range(2):
        for j, along in enumerate(basis):
            part = (along * vector).sum(1)
            components[j] = components[j] + part
            vector = vector - part.unsqueeze(1) * along
    return [*components, vector.norm(dim=1)], vector
