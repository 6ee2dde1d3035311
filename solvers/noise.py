"""Random numbers with one stream for each sample."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 512
"""How many numbers of a stream are drawn ahead at once; the stream does not depend on it."""

PRIOR, STEPS, PROBES, ACCEPT = 0, 1, 2, 3
"""Streams of one sample that must not touch: its starting point, steps, probes, Metropolis choices."""


class Noise:
    """Standard normal numbers, of which sample i of seed s has its own endless stream.

    The stream is Philox's (Salmon et al. 2011), keyed by (seed, i): it is the same alone and in any
    batch, on any device (the numbers are drawn on the host and sent), and in any dtype (they are
    drawn in float32). Calling it gives the next draw for every sample of the batch.

    Args:
        seed: a non-negative integer.
        shape: `[batch, ...]` of every draw.
        first: index of the first sample of the batch, so that a batch may be a part of a larger one.
        stream: which of a sample's streams.
        dtype, device: of the draws.

    Raises:
        ValueError: if the seed or first index is negative or no integer.
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
        for name, value in (("seed", seed), ("first", first)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
                raise ValueError(f"{name}: expected a non-negative integer, got {value!r}")
        self.seed, self.first = int(seed), int(first)
        self.shape, self.dtype, self.device = tuple(shape), dtype, torch.device(device)
        batch, size = self.shape[0], int(np.prod(self.shape[1:], dtype=np.int64))
        self._streams = [
            np.random.Generator(np.random.Philox(key=[seed, first + i], counter=[0, 0, 0, stream]))
            for i in range(batch)
        ]
        self._block = np.empty((batch, max(1, BLOCK // max(size, 1)), size), dtype=np.float32)
        self._used = self._block.shape[1]

    def __call__(self) -> Tensor:
        """The next draw, of the given shape."""
        if self._used == self._block.shape[1]:
            # A fresh block each time: the last one may still be on its way to the device.
            self._block = np.empty_like(self._block)
            for stream, block in zip(self._streams, self._block, strict=True):
                stream.standard_normal(out=block, dtype=np.float32)
            self._used = 0
        draw = torch.from_numpy(self._block[:, self._used]).reshape(self.shape)
        self._used += 1
        return draw.to(self.device, self.dtype, non_blocking=True)

    def sibling(self, shape: tuple[int, ...], stream: int) -> Noise:
        """Another stream of the same samples, with draws of another shape."""
        return Noise(self.seed, shape, first=self.first, stream=stream, dtype=self.dtype, device=self.device)
