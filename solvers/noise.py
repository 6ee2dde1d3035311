"""Random numbers with one stream for each sample."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer

BLOCK = 512
"""A stream draws at least this many numbers at once. Small samples are therefore drawn for several steps ahead."""

PRIOR, STEPS, PROBES, ACCEPT, FORWARD, TIMES, PATH = range(7)
"""Streams of one sample that must be independent.

They are for its starting point, its steps, its probes, its Metropolis tests, the noise and the times of its own forward
process, and a Brownian path (`BrownianPath`).
"""


class Noise:
    """Standard normal numbers. Each sample of a seed has an endless stream of its own.

    The numbers of a sample are the same alone and in any batch. They are the same on any device, since they are drawn
    on the host and then sent, and in any dtype, since they are drawn in float32. Calling the object gives the next draw
    for every sample of the batch.

    Args:
        seed: a non-negative integer.
        shape: `[batch, ...]` of every draw.
        first: index of the first sample of the batch, so that a batch can be a part of a larger one.
        stream: one of the streams of a sample, see `PRIOR`.
        dtype, device: of the draws.

    Raises:
        ValueError: if `seed` or `first` is not a non-negative integer.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        *,
        first: int = 0,
        stream: int = STEPS,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require_integer("seed", seed, 0)
        require_integer("first", first, 0)
        self.seed, self.first = seed, first
        self.shape, self.dtype, self.device = tuple(shape), dtype, torch.device(device)
        self._generators = [
            torch.Generator().manual_seed(key(seed, stream, index)) for index in range(first, first + self.shape[0])
        ]
        draws = max(1, BLOCK // max(1, math.prod(self.shape[1:])))
        self._block = torch.empty(self.shape[0], draws, *self.shape[1:], dtype=torch.float32)
        self._used = draws

    def __call__(self) -> Tensor:
        """The next draw, of the shape `self.shape`."""
        if self._used == self._block.shape[1]:
            # The block is a new tensor each time, since the last one may still be on its way to the device.
            self._block = torch.empty_like(self._block)
            for part, generator in zip(self._block.unbind(), self._generators, strict=True):
                part.normal_(generator=generator)
            self._used = 0
        draw = self._block[:, self._used]
        self._used += 1
        return draw.to(self.device, self.dtype, non_blocking=True)

    def sibling(self, shape: tuple[int, ...], stream: int) -> Noise:
        """Another stream of the same samples, with draws of the shape `shape`."""
        return Noise(self.seed, shape, first=self.first, stream=stream, dtype=self.dtype, device=self.device)


def key(seed: int, stream: int, index: int) -> int:
    """The 32-bit seed of a generator. It is different for all samples of one seed and stream.

    Args:
        seed: of all samples.
        stream: one of the streams of a sample.
        index: of the sample.
    """
    start = int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=4).digest(), "little")
    word = (start + index) % 2**32
    # The finaliser of MurmurHash3 (Appleby 2011). It is one to one, and gives neighbouring samples unrelated seeds.
    word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
    word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
    return word ^ word >> 16
