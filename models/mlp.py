"""A residual multilayer perceptron for vectors, and the conditioning that all networks here share.

A network is the raw F(x, c_noise) of a preconditioned denoiser (Karras et al. 2022, eq. 7). It is given the noise level
as c_noise = log(s)/4 with s = sigma/alpha, and so it does not depend on a process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrift.models.accepted_condition import AcceptedCondition, Classes, Length, with_mask
from backdrift.sde.arguments import checked
from backdrift.sde.tensor_checks import require_state
from backdrift.sde.value_types import Count, Range, Share

__all__ = ["MLP", "Conditioning"]

Width = Annotated[int, Range(least=1, most=65_536)]
"""The width of a layer. The weights of a larger one would not fit in the memory of a machine."""
Depth = Annotated[int, Range(least=1, most=10_000)]


class Conditioning(nn.Module):
    r"""The noise level c, and a class or a vector y where there is one, as one vector for each sample:

    .. math:: e = W_2 \, silu(W_1 [\cos 2 \pi f c, \sin 2 \pi f c]) + E(y).

    The frequencies f are spaced geometrically from 1/8 to 8 cycles for each unit of c. They are fixed, so that two
    networks of one size have the same ones; Song et al. (2021, appendix H.2) draw them at random.

    For a class E is a table, whose row `classes` is the null class of classifier-free guidance (Ho & Salimans 2022).
    For a vector it is W_4 silu(W_3 [y, m]), where m is 1 for each number of y that is known, and 0 for one that is
    missing (NaN) and stands as 0 in y. A vector of which nothing is known takes the place of the null class.

    Args:
        width: length of e.
        classes: number of classes; 0 without classes.
        frequencies: number of frequencies f.
        vector: length of y; 0 without a vector.

    Raises:
        ValueError: if a number is too small, which it names, or there are both classes and a vector.
    """

    frequencies: Tensor

    @checked
    def __init__(self, width: Count, classes: Classes = 0, frequencies: Depth = 16, vector: Length = 0) -> None:
        super().__init__()
        self.accepted = AcceptedCondition.of(classes, vector)
        self.classes = classes
        ladder = torch.logspace(-3, 3, frequencies, base=2.0)
        self.register_buffer("frequencies", 2 * math.pi * ladder, persistent=False)
        self.noise = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.vector = VectorEmbedding(vector, width) if vector else None

    def forward(self, c_noise: Tensor, condition: Tensor | None, batch: int) -> Tensor:
        """The vectors e, `[batch, width]`.

        Args:
            c_noise: log(s)/4, `[]` or `[1]` for all samples, or `[batch]`.
            condition: class indices, integers from 0 to `classes`, `[]` or `[batch]`, where the index `classes` is the
                null class; or vectors, `[vector]` or `[batch, vector]`, where NaN is a missing number. None means that
                nothing is known.
            batch: number of samples.

        Raises:
            ValueError: if a shape does not fit the batch, a label is out of range, or an unconditional network is given
                a condition.
            TypeError: if a label does not hold integers, or a vector no floating-point numbers.
        """
        if c_noise.shape not in ((), (1,), (batch,)):
            raise ValueError(f"c_noise: expected shape [] or [{batch}], one for each sample, got {list(c_noise.shape)}")
        c = c_noise.to(self.frequencies).reshape(-1, 1) * self.frequencies
        embedding = self.noise(torch.cat((c.cos(), c.sin()), dim=-1)).expand(batch, -1)
        if condition is not None:
            self.accepted.require_value(condition, batch)
        if self.vector is not None:
            return embedding + self.vector(condition)
        if self.label is None:
            return embedding
        if condition is None:
            condition = torch.full((), self.classes, device=embedding.device)
        return embedding + self.label(condition)


class VectorEmbedding(nn.Sequential):
    """W_4 silu(W_3 [y, m]) for a vector y with missing numbers, see `Conditioning`.

    Args:
        vector: length of y.
        width: length of the result.
    """

    def __init__(self, vector: int, width: int) -> None:
        super().__init__(nn.Linear(2 * vector, width), nn.SiLU(), nn.Linear(width, width))
        self.length = vector

    def forward(self, y: Tensor | None) -> Tensor:
        """The embeddings, `[width]` or `[batch, width]`, in the dtype of the weights.

        Args:
            y: `[vector]` or `[batch, vector]`, with NaN for missing numbers. None is a vector without a known
                number.
        """
        weight = next(self.parameters())
        known = weight.new_full((self.length,), torch.nan) if y is None else y.to(weight.dtype)
        embedding: Tensor = super().forward(with_mask(known, -1))
        return embedding


class MLP(nn.Module):
    r"""A network F(x, c_noise) for vectors. Samples of another shape are flattened. Each of `depth` residual blocks is

    .. math:: h \leftarrow h + W_2 \, silu(W_1 [norm(h) (1 + a(e)) + b(e)]).

    A linear map stands before the blocks and another after them. The maps a and b of the conditioning e are the
    adaptive layer norm of Peebles & Xie (2023). The last map starts at zero, so that the untrained denoiser is the
    linear (Gaussian) one.

    Args:
        dim: length of a vector, or the shape of a sample, such as `(3, 2)`.
        hidden: width of the residual stream.
        depth: number of residual blocks.
        classes: number of classes; 0 without classes.
        dropout: probability of dropping a unit inside a block, in training mode.
        vector: length of the vector that the network is conditioned on, see `Conditioning`; 0 without one.

    Attributes:
        accepted: the kind of condition that the network takes. It takes one kind.

    Raises:
        ValueError: if a size is too small, which it names, or there are both classes and a vector.
    """

    @checked
    def __init__(
        self,
        dim: Count | Sequence[Count],
        hidden: Width = 128,
        depth: Depth = 3,
        classes: Classes = 0,
        dropout: Share = 0.0,
        vector: Length = 0,
    ) -> None:
        super().__init__()
        self.event = (dim,) if isinstance(dim, int) else tuple(dim)
        size = math.prod(self.event)
        self.conditioning = Conditioning(hidden, classes, vector=vector)
        self.accepted = self.conditioning.accepted
        self.first = nn.Linear(size, hidden)
        self.blocks = nn.ModuleList(_ResidualLayer(hidden, dropout) for _ in range(depth))
        self.last = nn.Linear(hidden, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F(x, c_noise), with the shape and the dtype of `x`, computed in the dtype of the weights.

        Args:
            x: `[batch, *shape of a sample]`.
            c_noise: log(s)/4, `[]` or `[batch]`.
            condition: class indices, `[]` or `[batch]`, or vectors, `[vector]` or `[batch, vector]`. None, the index
                `classes` and a vector of NaN mean no condition.

        Raises:
            ValueError: if a shape does not fit, or a label is out of range.
            TypeError: if x or a vector does not hold floating-point numbers, or a label integers.
        """
        require_state(x)
        if tuple(x.shape[1:]) != self.event or x.ndim < 2:
            raise ValueError(f"x: expected shape [batch, {', '.join(map(str, self.event))}], got {list(x.shape)}")
        e = functional.silu(self.conditioning(c_noise, condition, x.shape[0]))
        h = self.first(x.flatten(1).to(self.first.weight.dtype))
        for block in self.blocks:
            h = block(h, e)
        return self.last(functional.silu(h)).reshape(x.shape).to(x.dtype)


class _ResidualLayer(nn.Module):
    """One residual block of an `MLP`."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.affine = nn.Linear(hidden, 2 * hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        a, b = self.affine(e).chunk(2, dim=-1)
        h_ = functional.silu(self.inner(self.norm(h) * (1 + a) + b))
        return h + self.outer(self.dropout(h_))
