"""The divergence of a vector field: exact, or estimated from products with its Jacobian."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from backdrift.sde.jacobian import VectorField, pulled_back, pushed_forward, with_graph

Mode = Literal["reverse", "forward"]
"""How products with a Jacobian are found: e^T J by a backward pass, or J e by forward differentiation."""


def products(
    field: VectorField, z: Tensor, probes: Tensor, chunk: int | None = None, mode: Mode = "reverse"
) -> tuple[Tensor, Tensor]:
    """v(z), and the Jacobian of v between probes, e^T (dv/dz) e.

    The mean of the products over random e with E[e e^T] = I is the divergence (Hutchinson 1990; Skilling 1989). The
    field itself is evaluated once in reverse mode, however many probes there are, and once for each chunk in forward
    mode.

    Args:
        field: v, differentiable in the mode.
        z: the points, `[batch, ...]`.
        probes: e, `[k, batch, ...]`, or `[k, 1, ...]` for probes that all samples share.
        chunk: how many of the k products are in memory at once; all by default.
        mode: "reverse" or "forward".

    Returns:
        v `[batch, ...]` and the k products `[k, batch]`.
    """
    value, slopes = derivatives(field, z, probes, chunk, mode)
    return value, (slopes * probes).flatten(2).sum(2)


def derivatives(
    field: VectorField, z: Tensor, directions: Tensor, chunk: int | None = None, mode: Mode = "reverse"
) -> tuple[Tensor, Tensor]:
    """v(z) `[batch, ...]`, and its products with k directions e, `[k, batch, ...]`. Arguments are as in `products`.

    The products are e^T J in reverse mode and J e in forward mode. A field that keeps no graph, as under
    `torch.no_grad`, is differentiated in forward mode.
    """
    if mode == "reverse":
        point, value = with_graph(field, z)
        if value.requires_grad:
            parts = directions.expand(-1, *z.shape).split(chunk or len(directions))
            return value.detach(), torch.cat([pulled_back(value, point, part) for part in parts])

    pairs = [pushed_forward(field, z, part) for part in directions.split(chunk or len(directions))]
    return pairs[0][0], torch.cat([slopes for _, slopes in pairs])


def deflated(
    field: VectorField,
    z: Tensor,
    basis: Tensor,
    probes: Tensor,
    beside: Tensor,
    chunk: int | None = None,
    mode: Mode = "reverse",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""v(z) and unbiased estimates of div v that are exact on a subspace: Hutch++ (Meyer et al. 2021, algorithm 1).

    With J the Jacobian, Q a basis and P = 1 - Q Q^T, of rank n,

    .. math:: \mathrm{tr} J = \mathrm{tr}(Q^T J Q) + E[n \, e^T P J P e / |P e|^2], \quad e \sim N(0, I)

    where the normalisation makes multiples of the identity exact (Epperly et al. 2024). Hutch++ spends a third of its
    products on finding Q. Along a path J changes little, and the products J Q are known anyway. The next basis is one
    step of subspace iteration with them, on J minus its mean outside Q. It depends on the past alone, so that the
    estimates stay unbiased and, given the basis, independent.

    It gains where J is a multiple of the identity except in few directions. For a normal density of rank 12 in 784
    dimensions, with 4, 8, 16 and 24 products of which half are spent on Q, the standard error is 1.16, 0.95, 0.51 and
    1e-4 times that of as many Rademacher probes. It loses where Q is too small for the eigenvalues that matter, as with
    4 products, since those spent on Q are missing among the probes. It also loses where J is nearly diagonal, for
    which Rademacher probes are exact.

    Args:
        field: v, differentiable in the mode.
        z: the points, `[batch, ...]`.
        basis: Q, `[q, batch, ...]`, orthonormal for each sample, with q below the size of a sample.
        probes: e, `[k, batch, ...]`.
        beside: more vectors whose products are wanted, `[m, batch, ...]`; m may be 0.
        chunk: how many of the q + k + m products are in memory at once; all by default.
        mode: "reverse", where the basis follows J^T in place of J, or "forward".

    Returns:
        v `[batch, ...]`, the k estimates `[k, batch]`, the m products `[m, batch]`, and the next basis.
    """
    q, k = len(basis), len(probes)
    inside = torch.einsum("qbi,kbi->kqb", basis.flatten(2), probes.flatten(2))
    probes = probes - torch.einsum("kqb,qb...->kb...", inside, basis)
    rest = z[0].numel() - q
    length = probes.flatten(2).norm(dim=2).reshape(k, len(z), *(1,) * (z.ndim - 1))
    probes = probes * (math.sqrt(rest) / length)
    directions = torch.cat([basis, probes, beside])
    value, slopes = derivatives(field, z, directions, chunk, mode)
    along = (slopes * directions).flatten(2).sum(2)
    draws = along[:q].sum(0) + along[q : q + k]
    elsewhere = (along[q : q + k].mean(0) / rest).reshape(length[0].shape)
    return value, draws, along[q + k :], orthonormal(slopes[:q] - elsewhere * basis)


def orthonormal(vectors: Tensor) -> Tensor:
    """An orthonormal basis of the span of each sample's vectors `[q, batch, ...]`, shaped like them.

    q is at most the size of a sample.
    """
    columns = vectors.flatten(2).permute(1, 2, 0)
    return torch.linalg.qr(columns)[0].permute(2, 0, 1).reshape(vectors.shape)


def divergence(
    field: VectorField, z: Tensor, chunk: int | None = None, mode: Mode = "reverse"
) -> tuple[Tensor, Tensor]:
    """v(z) and div v, exactly: the sum over the unit vectors e of e^T (dv/dz) e.

    In reverse mode the field is evaluated once, and the backward pass is repeated for all unit vectors of a chunk at
    once. This takes half the time of forward mode for closed forms and MLPs, and the same time for convolutions. A
    field that keeps no graph, as under `torch.no_grad`, is differentiated in forward mode.

    Args:
        field: v, differentiable in the mode.
        z: the points, `[batch, ...]`.
        chunk: how many unit vectors are in memory at once; all by default.
        mode: "reverse" or "forward".

    Returns:
        v `[batch, ...]` and div v `[batch]`.
    """
    size = z[0].numel()
    chunk = size if chunk is None else min(chunk, size)
    point, value = with_graph(field, z) if mode == "reverse" else (z, z)
    forward = not value.requires_grad
    total = z.new_zeros(len(z))
    for start in range(0, size, chunk):
        units = torch.zeros(min(chunk, size - start), size, dtype=z.dtype, device=z.device)
        units.diagonal(start).fill_(1)
        units = units.reshape(-1, 1, *z.shape[1:])
        if forward:
            value, along = products(field, z, units, mode="forward")
        else:
            along = (pulled_back(value, point, units.expand(-1, *z.shape)) * units).flatten(2).sum(2)
        total = total + along.sum(0)
    return value.detach(), total
