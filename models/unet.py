"""A U-Net for images: residual convolutions at several resolutions, with attention where asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrift.models.mlp import Conditioning

__all__ = ["UNet"]


class UNet(nn.Module):
    r"""F(x, c_noise) for images of any size.

    Ronneberger et al. (2015) with the residual, noise-conditioned blocks of Ho et al. (2020) and
    Dhariwal & Nichol (2021), thinned out for speed: level l works on images halved l times with
    `widths[l]` channels, and one skip joins each level going down to the same level going up.

    Level 0 sees the image and, where `fourier` is given, the sinusoids of Kingma et al. (2021,
    appendix C), each faded by what noise of level s leaves of it,

    .. math:: \exp(-\omega^2 s^2 / 2) [\sin \omega x, \cos \omega x], \quad \omega = 2^k \pi,

    which resolve the quantisation of the data: likelihood needs them, pictures do not.

    An image whose sides cannot be halved is padded by its last row and column, and the output cropped.

    Args:
        channels: channels of an image.
        widths: channels at each level, finest first.
        blocks: residual blocks at each level, going down and again going up.
        attention: the levels, 0 the finest, with self-attention after each block.
        classes: number of classes; 0 for an unconditional network.
        dropout: probability of dropping a unit inside a block, in training mode.
        fourier: the exponents k of the sinusoids; empty for none.
        patch: side of the square of pixels that become the channels of one position of level 0.

    Raises:
        ValueError: naming the size that is too small, or a level that is none.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (64, 128),
        blocks: int = 2,
        attention: Sequence[int] = (),
        classes: int = 0,
        dropout: float = 0.0,
        fourier: Sequence[float] = (),
        patch: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("blocks", blocks), ("patch", patch)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected an integer of at least 1")
        if not widths or any(width < 1 for width in widths):
            raise ValueError(f"widths={widths}: expected a positive number of channels for each level")
        if any(not 0 <= level < len(widths) for level in attention):
            raise ValueError(f"attention={attention}: expected levels from 0 to {len(widths) - 1}")
        self.channels = channels
        self.fourier = tuple(fourier)
        self.patch = patch
        embedding = 4 * widths[0]
        self.conditioning = Conditioning(embedding, classes)
        self.first = nn.Conv2d(patch**2 * channels * (1 + 2 * len(self.fourier)), widths[0], 3, padding=1)

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

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Evaluate F.

        Args:
            x: of shape [batch, channels, height, width].
            c_noise: ln(s)/4, of shape [] or [batch].
            label: class indices, of shape [] or [batch]; None, or the index `classes`, is no class.

        Returns:
            F, with the shape and dtype of x (computed in the dtype of the weights).

        Raises:
            ValueError: shapes that do not fit.
            TypeError: a label that does not hold integers.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x has shape {list(x.shape)}: expected [batch, {self.channels}, height, width]")
        height, width = x.shape[2:]
        e = functional.silu(self.conditioning(c_noise, label, len(x)))
        unit = self.patch * 2 ** len(self.coarsen)
        h = functional.pad(x.to(self.first.weight.dtype), (0, -width % unit, 0, -height % unit), mode="replicate")
        h = self.first(functional.pixel_unshuffle(self._sinusoids(h, c_noise), self.patch))
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

    def _sinusoids(self, x: Tensor, c_noise: Tensor) -> Tensor:
        features = [x]
        s = (4 * c_noise.to(x)).exp().reshape(-1, 1, 1, 1)
        for k in self.fourier:
            omega = math.pi * 2.0**k
            fade = (-0.5 * (omega * s).square()).exp()
            features += [fade * (omega * x).sin(), fade * (omega * x).cos()]
        return torch.cat(features, dim=1)


class _Level(nn.Module):
    """The residual blocks of one resolution, on one way."""

    def __init__(self, width: int, embedding: int, dropout: float, blocks: int, attends: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, embedding, dropout, attends) for _ in range(blocks))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, e)
        return x


class _Block(nn.Module):
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
    """Self-attention over the pixels, in plain matmuls: the fused kernel has no forward-mode derivative."""

    def __init__(self, width: int, head: int = 32) -> None:
        super().__init__()
        self.heads = max(1, width // head)
        self.norm = nn.GroupNorm(_groups(width), width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.outer = _zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        weights = (q.mT @ k / math.sqrt(q.shape[-2])).softmax(dim=-1)
        return x + self.outer((v @ weights.mT).reshape(x.shape))


def _groups(width: int) -> int:
    return math.gcd(width, 8)


def _zero(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
