"""One Brownian path that can be asked for anywhere, so that coarse and fine solves can share it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer
from backdrift.solvers.noise import PATH

GOLDEN = 0x9E3779B97F4A7C15


class BrownianPath:
    r"""Brownian motion W on [start, end], W(start) = 0: a function of time, for every sample of a seed its own.

    It is the same whichever times are asked for, in whatever order, so solves on any grids can share it. Halfway
    in a cell [a, b] of a dyadic tree lies, by the bridge (Lévy 1948),

    .. math:: W\left(\frac{a + b}{2}\right) = \frac{W(a) + W(b)}{2} + \frac{\sqrt{b - a}}{2} z,

    z a function of the seed, the sample, the cell and the component. A time within one of the 2^depth last cells is
    bridged to as well: the law is exact for times of which no two share a last cell.

    Only the cells that lead to the last time asked for are kept: memory is 2 `depth` states, however many
    times there are. A time costs a draw for each cell that it does not share with the one before: about two on a
    grid of 2^n even steps, `depth` at most. This is the virtual Brownian tree of Li et al. (2020), walked along;
    solves that share no path draw from `Noise`, which is far cheaper.

    The clock may be time, as `simulate` uses, or any other that rises or falls with it, such as log-SNR: the noise of
    an SDE is a Brownian motion in each, if not the same one.

    Args:
        seed: a non-negative integer.
        shape: `[batch, ...]` of W.
        start, end: the interval, rising or falling.
        depth: of the tree.
        first: index of the first sample of the batch, so that a batch may be a part of a larger one.
        dtype, device: of W; it is worked out on the host in float64.

    Raises:
        ValueError: naming the argument that makes no sense.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        start: float = 0.0,
        end: float = 1.0,
        *,
        depth: int = 24,
        first: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require_integer("seed", seed, 0)
        require_integer("first", first, 0)
        if not math.isfinite(end - start) or end == start:
            raise ValueError(f"start, end: expected two different numbers, got {start} and {end}")
        require_integer("depth", depth, 0, 40)
        self.start, self.end, self.depth = float(start), float(end), depth
        self.shape, self.dtype, self.device = tuple(shape), dtype, torch.device(device)
        self._keys = torch.tensor([_key(seed, first + i) for i in range(shape[0])]).unsqueeze(1)
        self._counts = _mixed(torch.arange(1, 1 + math.prod(shape[1:])) * _signed(GOLDEN))
        zero = torch.zeros(shape[0], len(self._counts), dtype=torch.float64)
        # The cells that hold the last time, from the whole interval down: their number and W at both ends.
        self._cells = [(0, zero, math.sqrt(abs(end - start)) * self._normal(0))]

    def __call__(self, t: float | Tensor) -> Tensor:
        """W at a time within the interval, `[batch, ...]`.

        Raises:
            ValueError: for a time outside.
        """
        return self._sent(self._value(float(t)))

    def along(self, times: Tensor | Sequence[float]) -> Callable[[], Tensor]:
        """A source of noise for a solve on the given times: one increment after another, each divided by its
        standard deviation. For solvers that draw once a step, from each of the times to the next.

        Raises:
            ValueError: if the times do not rise or fall throughout, or lie outside; by the source, if it is asked for
                more than there are.
        """
        points = torch.as_tensor(times, dtype=torch.float64)
        steps = points.diff()
        if points.ndim != 1 or not (bool((steps > 0).all()) or bool((steps < 0).all())):
            raise ValueError(f"times: expected times that rise or fall throughout, got {points.tolist()}")
        ends = iter(points.tolist())
        past = next(ends)
        before = self._value(past)

        def draw() -> Tensor:
            nonlocal past, before
            now = next(ends, None)
            if now is None:
                raise ValueError(f"times: the solve asked for more than the {len(steps)} increments between them")
            here = self._value(now)
            increment = (here - before) / math.sqrt(abs(now - past))
            past, before = now, here
            return self._sent(increment)

        return draw

    def _sent(self, value: Tensor) -> Tensor:
        return value.reshape(self.shape).to(self.device, self.dtype)

    def _value(self, t: float) -> Tensor:
        """W(t), `[batch, size]`, in float64 on the host."""
        share = (t - self.start) / (self.end - self.start)
        if not -1e-12 <= share <= 1 + 1e-12:
            raise ValueError(f"t: expected a time between {self.start:g} and {self.end:g}, got {t:g}")
        place = min(max(share, 0.0), 1.0) * 2**self.depth
        if abs(place - round(place)) < 1e-6:  # at the end of a cell but for rounding
            place = float(round(place))
        return self._at(place)

    def _at(self, place: float) -> Tensor:
        """W at a place in units of the last cells."""
        if place == 2**self.depth:
            return self._cells[0][2]
        last = int(place)
        while last >> (self.depth - len(self._cells) + 1) != self._cells[-1][0]:
            self._cells.pop()
        while True:
            cell, low, high = self._cells[-1]
            level = len(self._cells) - 1
            offset = place - (cell << (self.depth - level))
            if offset == 0:
                return low
            share = 0.5 if level < self.depth else offset
            width = abs(self.end - self.start) / 2**level
            middle = torch.lerp(low, high, share)
            middle += math.sqrt(share * (1 - share) * width) * self._normal(2**level + cell)
            if level == self.depth:
                return middle
            right = last >> (self.depth - level - 1) & 1
            self._cells.append((2 * cell + right, middle if right else low, high if right else middle))

    def _normal(self, node: int) -> Tensor:
        """The standard normal numbers of a cell, `[batch, size]`: SplitMix64 (Steele, Lea & Flood 2014) as a function
        of key, cell and component, and the normal quantile of its 52 leading bits."""
        bits = _mixed(_mixed(self._keys + _signed(node * GOLDEN)) + self._counts)
        return torch.special.ndtri(((bits >> 12 & 2**52 - 1).double() + 0.5) / 2**52)


def _key(seed: int, index: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{PATH}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _signed(value: int) -> int:
    """A number modulo 2^64, as a signed one."""
    return (value + 2**63) % 2**64 - 2**63


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, one to one on 64 bits. A shift of int64 fills in its sign, which is masked off."""
    x = (x ^ x >> 30 & 2**34 - 1) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ x >> 27 & 2**37 - 1) * _signed(0x94D049BB133111EB)
    return x ^ x >> 31 & 2**33 - 1
