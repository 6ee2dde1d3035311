"""Random numbers with one stream for each sample: the same in every batch and on every device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer
from backdrift.sde.tensor_checks import require_sizes
from backdrift.solvers.philox import WORD, philox

BLOCKS = 24576
"""Blocks of four numbers that are made at once, in 2 MB of memory. Fewer cost more calls, and more leave the cache."""

GROWTH = 3
"""Small draws are made ahead: first one, then 3 at once, 9, and so on while they have at most `BLOCKS` blocks."""

SMALL = 16
"""Samples of fewer numbers share the blocks of four with their neighbours, so that no number is left over."""

PRIOR, STEPS, PROBES, ACCEPT, FORWARD, TIMES, PATH = range(7)
"""Streams of one sample that must be independent.

They are for its starting point, its steps, its probes, its Metropolis tests, the noise and the times of its own forward
process, and a Brownian path (`BrownianPath`).
"""


class Noise:
    """Standard normal numbers. Each sample of a seed has a stream of its own.

    The numbers come from Philox (Salmon, Moraes, Dror & Shaw 2011), which computes random words from a counter and a
    key and has no state. The key stands for the seed and the stream. The counter is the index of the sample, the number
    of the draw and the place in the draw. The numbers of a sample are therefore the same alone and in any batch.
    Calling the object gives the next draw for every sample of the batch.

    The numbers are computed on the device where they are used. The random words are the same on all devices, in every
    bit. The numbers are computed from the words in float64 and rounded to float32, whatever `dtype` is. Devices differ
    in the last bit of a logarithm or sine in float64, so about one number in 10^9 differs in its last bit of float32.
    Devices without float64 compute in float32, with errors of about 1e-6.

    Args:
        seed: a non-negative integer of any size.
        shape: `[batch, ...]` of every draw.
        first: index of the first sample of the batch, so that a batch can be a part of a larger one. The indices of
            samples are below 2^63.
        stream: one of the streams of a sample, see `PRIOR`.
        dtype, device: of the draws.

    Raises:
        ValueError: if `seed` or `first` is not a non-negative integer, if a sample has an index of 2^63 or more, or if
            `shape` does not hold sizes.
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
        require_sizes(shape)
        self.seed, self.first = seed, first
        self.shape, self.dtype, self.device = tuple(shape), dtype, torch.device(device)
        if first + self.shape[0] > 2**63:
            raise ValueError(f"first: expected samples with indices below 2**63, got {self.shape[0]} from {first} on")
        self._key = key_of(seed, stream)
        self._drawn = 0
        self._ahead: list[Tensor] = []
        self._next_count = 1

    def __call__(self) -> Tensor:
        """The next draw, of the shape `self.shape`."""
        if not self._ahead:
            draws = range(self._drawn, self._drawn + self._next_count)
            make = _opaque_normals if torch.compiler.is_compiling() else normals
            values = make(self._key, draws, self.first, self.shape, self.dtype, self.device)
            self._drawn = draws.stop
            self._ahead = [*values.unbind()][::-1]
            blocks = max(1, self._ahead[0].numel() // 4)
            self._next_count = max(1, min(GROWTH * self._next_count, BLOCKS // blocks))
        return self._ahead.pop()

    def sibling(self, shape: tuple[int, ...], stream: int) -> Noise:
        """Another stream of the same samples, with draws of the shape `shape`."""
        return Noise(self.seed, shape, first=self.first, stream=stream, dtype=self.dtype, device=self.device)


def key_of(*parts: int) -> tuple[int, int]:
    """The two words of the key that stands for a seed and what follows it, such as a stream.

    The key is a hash, so different parts have unrelated keys. Among n keys two are equal with probability n^2 / 2^65.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def normals(
    key: tuple[int, int],
    draws: Sequence[int],
    first: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Standard normal numbers of some draws of consecutive samples, `[draws, *shape]`.

    Four numbers are made at once. Small samples, see `SMALL`, are therefore grouped in rows, by their indices: four
    samples of an odd number of components, or two of 2, 6, 10 or 14, are one row. Any other sample is a row of its own.

    Args:
        key: of the generator, see `key_of`.
        draws: the numbers of the draws, from 0 to 2^32 - 1. A range is not copied to the device.
        first: the index of the first sample.
        shape: `[batch, ...]` of a draw.
        dtype, device: of the numbers.

    Raises:
        ValueError: if a draw has a number of 2^32 or more.
    """
    if max(draws) >= 2**32:
        raise ValueError(f"noise: expected at most 2**32 draws of one stream, got the draw number {max(draws)}")
    size = math.prod(shape[1:])
    together = 4 // math.gcd(4, size) if size < SMALL else 1
    start, skipped = divmod(first, together)
    rows, blocks = _quotient(skipped + shape[0], together), _quotient(size * together, 4)
    values = torch.empty(len(draws), rows, size * together, dtype=dtype, device=device)
    across = _even_part(blocks, BLOCKS)
    down = _even_part(rows, BLOCKS / across)
    for top in range(0, rows, down):
        for left in range(0, blocks, across):
            part = values[:, top : top + down, 4 * left : 4 * (left + across)]
            _fill(part, key, draws, start + top, left)
    return values.view(len(draws), rows * together, *shape[1:])[:, skipped : skipped + shape[0]]


def _opaque_normals(
    key: tuple[int, int],
    draws: range,
    first: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """`normals` as one operation of a compiled graph.

    torch.compile must not look inside. Its processor code treats products that wrap as undefined, and gave wrong words
    for some keys without a warning.
    """
    made: Tensor = _operator([*key], draws.start, draws.stop, first, [*shape], dtype, torch.device(device))
    return made


@torch.library.custom_op(
    "backdrift::normals",
    mutates_args=(),
    schema="(int[] key, int start, int stop, int first, SymInt[] shape, ScalarType dtype, Device device) -> Tensor",
)
def _operator(
    key: list[int], start: int, stop: int, first: int, shape: list[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    return normals((key[0], key[1]), range(start, stop), first, tuple(shape), dtype, device).contiguous()


@_operator.register_fake
def _(
    key: list[int], start: int, stop: int, first: int, shape: list[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.empty(stop - start, *shape, dtype=dtype, device=device)


def _quotient(total: int, divisor: int) -> int:
    """A quotient that is rounded up."""
    return -(-total // divisor)


def _even_part(total: int, limit: float) -> int:
    """The size of the parts if `total` things are divided evenly into parts of about `limit`. It is at least 1."""
    return max(1, _quotient(total, max(1, round(total / limit))))


def _fill(values: Tensor, key: tuple[int, int], draws: Sequence[int], first_row: int, first_block: int) -> None:
    """Write the numbers of some rows, and of some of their blocks, into `values`, `[draws, rows, 4 blocks]`.

    The last block of a row may have fewer than four places.
    """
    # The counter is (block, draw, lower and upper half of the row). Its words are written, since tensors that are
    # expanded have no memory of their own to work in.
    device = values.device
    even = torch.empty(2, *values.shape[:2], _quotient(values.shape[2], 4), dtype=torch.int64, device=device)
    odd = torch.empty_like(even)
    row = torch.arange(even.shape[2], device=device).unsqueeze(1) + first_row
    even[0] = torch.arange(first_block, first_block + even.shape[3], device=device)
    even[1] = row & WORD
    numbers_of_draws = torch.arange(len(draws), device=device) + draws[0] if isinstance(draws, range) else draws
    odd[0] = torch.as_tensor(numbers_of_draws, device=device).reshape(-1, 1, 1)
    odd[1] = row >> 32
    working = torch.float32 if device.type == "mps" else torch.float64
    for i, numbers in enumerate(box_muller(*philox(even, odd, key), working)):
        places = values[..., i::4]
        numbers = numbers[..., : places.shape[-1]]
        # Through float32 always, so that a sample has the same numbers in every dtype.
        places.copy_(numbers if values.dtype == torch.float32 else numbers.to(torch.float32))


def box_muller(even: Tensor, odd: Tensor, working: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Standard normal numbers from random words (Box & Muller 1958).

    Words w and w' give the two numbers

    .. math:: \sqrt{-2 \log u} \cos 2 \pi u' \quad \text{and} \quad \sqrt{-2 \log u} \sin 2 \pi u',

    with u = (w + 1/2) / 2^32, and likewise u' from w'. They are between -6.8 and 6.8.

    Args:
        even: the words w, 0 and 2 of each block, `[2, ...]` of int64. The memory is overwritten.
        odd: the words w', 1 and 3 of each block, likewise.
        working: float64, or float32 for devices that have no float64.

    Returns:
        The four numbers of each block, `[...]` each: two from the words 0 and 1, two from the words 2 and 3.
    """
    logarithm = even.to(working).add_(0.5).mul_(2**-32).log_()
    if working == torch.float32:  # a u near 1 has lost its digits there; 1 - u has them
        rest = (WORD - even).to(working).add_(0.5).mul_(2**-32)
        logarithm = torch.where(rest < 0.5, torch.log1p(-rest), logarithm)
    radius = logarithm.mul_(-2).sqrt_()
    # The memory of the words is used again, since on a processor new memory costs nearly as much as a sine.
    angle = even.view(working)[..., : even.shape[-1]].copy_(odd).add_(0.5).mul_(2 * math.pi * 2**-32)
    sine = torch.sin(angle, out=odd.view(working)[..., : odd.shape[-1]]).mul_(radius)
    cosine = angle.cos_().mul_(radius)
    return cosine[0], sine[0], cosine[1], sine[1]
