"""A U-Net for images: residual convolutions at several resolutions, with attention where that is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional

from backdrift.models.accepted_condition import AcceptedCondition, Classes, Length
from backdrift.models.conditions import Picture
from backdrift.models.mlp import Conditioning, Width
from backdrift.sde.arguments import checked
from backdrift.sde.tensor_checks import require_state
from backdrift.sde.value_types import Filled, NonNegativeCount, Range, Share

__all__ = ["UNet"]


class UNet(nn.Module):
    r"""A network F(x, c_noise) for images of any size.

    Ronneberger et al. (2015) with the residual, noise-conditioned blocks of Ho et al. (2020) and Dhariwal & Nichol
    (2021). It has fewer skip connections than theirs, for speed. Level l works on images halved l times, with
    `widths[l]` channels. One skip connection joins each level on the way down with the same level on the way up.

    Level 0 sees the image. Where `fourier` is given, it also sees the sinusoids of Kingma et al. (2021, appendix C),
    each multiplied by the share of it that noise of level s leaves,

    .. math:: \exp(-\omega^2 s^2 / 2) [\sin \omega x, \cos \omega x], \quad \omega = 2^k \pi.

    They resolve the quantisation of the data, which likelihoods need and pictures do not.

    A picture as a condition is seen by level 0 beside the image, with a mask for each of its channels that is 1 where a
    number is known, and 0 where it is missing (NaN) and stands as 0.

    An image whose sides cannot be halved is padded with copies of its last row and column, and the output is cropped.

    Args:
        channels: channels of an image.
        widths: channels at each level, the finest first.
        blocks: residual blocks at each level, on the way down and again on the way up.
        attention: the levels with self-attention after each block; level 0 is the finest.
        classes: number of classes; 0 without classes.
        dropout: probability of dropping a unit inside a block, in training mode.
        fourier: the exponents k of the sinusoids; empty for none.
        patch: side of the square of pixels that become the channels of one position at level 0.
        vector: length of the vector that the network is conditioned on, see `Conditioning`; 0 without one.
        picture: channels of the picture that the network is conditioned on, which has the size of the image; 0 without.

    Attributes:
        accepted: the kind of condition that the network takes. It takes one kind.

    Raises:
        ValueError: if a size is too small, which it names, `attention` names a level that there is not, or there is
            more than one kind of condition.
    """

    @checked
    def __init__(
        self,
        channels: Width,
        widths: Annotated[Sequence[Width], Filled()] = (64, 128),
        blocks: Annotated[int, Range(least=1, most=1_000)] = 2,
        attention: Sequence[NonNegativeCount] = (),
        classes: Classes = 0,
        dropout: Share = 0.0,
        fourier: Sequence[Annotated[float, Range(least=-20, most=20)]] = (),
        patch: Annotated[int, Range(least=1, most=1_000)] = 1,
        vector: Length = 0,
        picture: Length = 0,
    ) -> None:
        super().__init__()
        if any(level >= len(widths) for level in attention):
            raise ValueError(f"attention: expected levels from 0 to {len(widths) - 1}, got {list(attention)}")
        self.channels = channels
        self.fourier = tuple(fourier)
        self.patch = patch
        embedding = 4 * widths[0]
        self.accepted = AcceptedCondition.of(classes, vector, picture)
        self.conditioning = Conditioning(embedding, classes, vector=vector)
        seen = channels * (1 + 2 * len(self.fourier)) + 2 * picture
        self.first = nn.Conv2d(patch**2 * seen, widths[0], 3, padding=1)

        def levels() -> nn.ModuleList:
            return nn.ModuleList(
                _Level(width, embedding, dropout, blocks, attends=index in attention)
                for index, width in enumerate(widths)
            )

        self.down, self.up = levels(), levels()
        pairs = list(pairwise(widths))
        self.coarsen = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.refine = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.norm = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.last = _zero(nn.Conv2d(widths[0], patch**2 * channels, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F(x, c_noise), with the shape and the dtype of `x`, computed in the dtype of the weights.

        Args:
            x: `[batch, channels, height, width]`.
            c_noise: log(s)/4, `[]` or `[batch]`.
            condition: class indices, `[]` or `[batch]`; vectors, `[vector]` or `[batch, vector]`; or pictures,
                `[picture, height, width]` or `[batch, picture, height, width]`. None, the index `classes`, and a vector
                or a picture of NaN mean no condition.

        Raises:
            ValueError: if a shape does not fit, or a label is out of range.
            TypeError: if x, a vector or a picture does not hold floating-point numbers, or a label integers.
        """
        require_state(x)
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x: expected shape [batch, {self.channels}, height, width], got {list(x.shape)}")
        height, width = x.shape[2:]
        embedded = None if self.accepted.kind is Picture else condition
        e = functional.silu(self.conditioning(c_noise, embedded, x.shape[0]))
        h = self._sinusoids(self._padded(x), c_noise)
        if self.accepted.kind is Picture:
            h = torch.cat((h, self._padded(self.accepted.beside(x, condition))), dim=1)
        h = self.first(functional.pixel_unshuffle(h, self.patch))
        skips = []
        for i, level in enumerate(self.down):
            h = level(h, e)
            if i < len(self.coarsen):
                skips.append(h)
                h = self.coarsen[i](h)
        for i in reversed(range(len(self.up))):
            if i < len(self.refine):
                h = self.refine[i](h) + skips[i]
            h = self.up[i](h, e)
        h = functional.pixel_shuffle(self.last(functional.silu(self.norm(h))), self.patch)
        return h[..., :height, :width].to(x.dtype)

    def _padded(self, x: Tensor) -> Tensor:
        """An image in the dtype of the weights, with sides that can be halved."""
        height, width = x.shape[2:]
        unit = self.patch * 2 ** len(self.coarsen)
        return functional.pad(x.to(self.first.weight.dtype), (0, -width % unit, 0, -height % unit), mode="replicate")

    def _sinusoids(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """The image and its sinusoids, along the axis of channels."""
        features = [x]
        s = (4 * c_noise.to(x)).exp().reshape(-1, 1, 1, 1)
        for k in self.fourier:
            omega = math.pi * 2.0**k
            fade = (-0.5 * (omega * s).square()).exp()
            features += [fade * (omega * x).sin(), fade * (omega * x).cos()]
        return torch.cat(features, dim=1)


class _Level(nn.Module):
    """The residual blocks of one resolution, on the way down or on the way up."""

    def __init__(self, width: int, embedding: int, dropout: float, blocks: int, attends: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, embedding, dropout, attends) for _ in range(blocks))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, e)
        return x


class _Block(nn.Module):
    """A residual block of two convolutions, scaled and shifted by the conditioning, with attention where asked for."""

    def __init__(self, width: int, embedding: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(width), width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * width)
        self.inner_norm = nn.GroupNorm(_groups(width), width, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.outer = _zero(nn.Conv2d(width, width, 3, padding=1))
        self.attention = _Attention(width) if attends else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        a, b = self.affine(e)[..., None, None].chunk(2, dim=1)
        h = self.inner(functional.silu(self.norm(x)))
        h = functional.silu(self.inner_norm(h) * (1 + a) + b)
        x = x + self.outer(self.dropout(h))
        return x if self.attention is None else self.attention(x)


class _Attention(nn.Module):
    """Self-attention over the pixels, softmax(q^T k / sqrt(c)) v for heads of c channels (Vaswani et al. 2017, eq. 1).

    It runs in torch's fused kernel, which never holds the weights of all pairs of pixels. The kernel has no
    forward-mode derivative, so plain matrix products are taken where one is asked for, and where `fused` is False.

    Attributes:
        fused: whether the fused kernel may be used.
    """

    def __init__(self, width: int, head: int = 32) -> None:
        super().__init__()
        self.fused = True
        self.heads = max(1, width // head)
        self.norm = nn.GroupNorm(_groups(width), width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.outer = _zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT.unbind(1)
        if self.fused and unpack_dual(q).tangent is None:
            h = functional.scaled_dot_product_attention(q, k, v)
        else:
            h = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v
        return x + self.outer(h.mT.reshape(x.shape))


def without_fused_attention(network: nn.Module) -> None:
    """Let the attention of every U-Net in `network` run in plain matrix products.

    The fused kernel has no second derivative. A network is trained with one where its own derivative is in the loss.
    """
    for module in network.modules():
        if isinstance(module, _Attention):
            module.fused = False


def _groups(width: int) -> int:
    """The number of groups of a normalisation: up to 8, a divisor of the width."""
    return math.gcd(width, 8)


def _zero(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution with all its weights set to 0."""
    nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
