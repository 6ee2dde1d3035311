"""Brownian paths that can be evaluated at any time, so that coarse and fine solves can share one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backdrift.sde.checks import require_integer
from backdrift.sde.tensor_checks import require_sizes
from backdrift.solvers.noise import PATH, key_of, normals
from backdrift.solvers.philox import WORD


class BrownianPath:
    r"""A Brownian motion W on [start, end] with W(start) = 0, as a function of time. Each sample has its own path.

    Take it to compare solves with different steps on the same path. If no path is shared, draw from `Noise`, which is
    far cheaper. The path does not depend on which times are asked for, nor on their order. It is the virtual Brownian
    tree of Li et al. (2020): a binary tree halves the interval `depth` times. The value in the middle of a cell [a, b]
    follows from those at its ends by the Brownian bridge (Lévy 1948),

    .. math:: W\left(\frac{a + b}{2}\right) = \frac{W(a) + W(b)}{2} + \frac{\sqrt{b - a}}{2} z,

    where z is a standard normal number that depends only on the seed, the sample, the cell and the component. A time
    inside one of the 2^depth smallest cells is computed by a bridge as well. The joint law of several times is exact if
    no two of them lie in the same smallest cell.

    The object keeps only the cells that lead to the last time asked for, so its memory is 2 `depth` states for any
    number of times. A time costs one draw for each of its cells that the time before does not share. This is about two
    draws on a grid of 2^n even steps, and `depth` draws at most.

    The variable of W can be time, as in `simulate`, or another variable that rises or falls with time, such as log-SNR.
    The noise of an SDE is a Brownian motion in each of them, but not the same one.

    Args:
        seed: the seed, a non-negative integer.
        shape: the shape of W, `[batch, ...]`.
        start: the beginning of the interval.
        end: the end of the interval, above or below `start`.
        depth: the depth of the tree, 0 to 40.
        first: the index of the first sample, if this batch is a part of a larger one.
        dtype: the dtype of W. It is computed in float64 and then converted.
        device: the device of W. It is computed there. A device without float64 gets it from the CPU.

    Raises:
        ValueError: if an argument has a value that is not allowed. The message names it.
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
        require_sizes(shape)
        require_integer("seed", seed, 0)
        require_integer("first", first, 0)
        if not math.isfinite(end - start) or end == start:
            raise ValueError(f"start, end: expected two different numbers, got {start} and {end}")
        require_integer("depth", depth, 0, 40)
        self.start, self.end, self.depth = float(start), float(end), depth
        self.shape, self.dtype, self.device = tuple(shape), dtype, torch.device(device)
        self.seed, self.first = seed, first
        self._working = torch.device("cpu") if self.device.type == "mps" else self.device
        zero = torch.zeros(self.shape, dtype=torch.float64, device=self._working)
        # The cells that contain the last time asked for, from the whole interval down to the smallest one: for each
        # its number in its level, and W at both of its ends.
        self._cells = [(0, zero, math.sqrt(abs(end - start)) * self._normals([0])[0])]

    def __call__(self, t: float | Tensor) -> Tensor:
        """W at a time in the interval, `[batch, ...]`.

        Raises:
            ValueError: if the time is outside the interval.
        """
        return self._sent(self._value(float(t)))

    def along(self, times: Tensor | Sequence[float]) -> Callable[[], Tensor]:
        """A source of noise for a solver that draws once in each step between the given times.

        Each call of the source returns the next increment of W, divided by its standard deviation.

        Args:
            times: the times of the steps, `[n]`, which rise or fall throughout.

        Raises:
            ValueError: if the times do not rise or fall throughout, or lie outside the interval. The source raises it
                if it is called more than n - 1 times.
        """
        points = torch.as_tensor(times, dtype=torch.float64, device="cpu")
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
        return value.to(self.device, self.dtype)

    def _value(self, t: float) -> Tensor:
        """W(t) in float64, `[batch, ...]`."""
        share = (t - self.start) / (self.end - self.start)
        if not -1e-12 <= share <= 1 + 1e-12:
            raise ValueError(f"t: expected a time between {self.start:g} and {self.end:g}, got {t:g}")
        place = min(max(share, 0.0), 1.0) * 2**self.depth
        if abs(place - round(place)) < 1e-6:  # the end of a cell, up to rounding
            place = float(round(place))
        return self._at(place)

    def _at(self, place: float) -> Tensor:
        """W at a place in the interval, which is measured in lengths of the smallest cells."""
        if place == 2**self.depth:
            return self._cells[0][2]
        last = int(place)
        while last >> (self.depth - len(self._cells) + 1) != self._cells[-1][0]:
            self._cells.pop()
        top = len(self._cells) - 1
        cells = [last >> (self.depth - level) for level in range(top, self.depth + 1)]
        # Below a cell that begins at the place there is nothing to draw.
        ends = (place == cell << (self.depth - level) for level, cell in enumerate(cells, top))
        cells = [cell for cell, end in zip(cells, itertools.accumulate(ends, max), strict=True) if not end]
        draws = self._normals([2**level + cell for level, cell in enumerate(cells, top)])
        for level, (cell, z) in enumerate(zip(cells, draws, strict=True), top):
            _, low, high = self._cells[-1]
            share = 0.5 if level < self.depth else place - cell
            width = abs(self.end - self.start) / 2**level
            middle = torch.lerp(low, high, share) + math.sqrt(share * (1 - share) * width) * z
            if level == self.depth:
                return middle
            right = last >> (self.depth - level - 1) & 1
            self._cells.append((2 * cell + right, middle if right else low, high if right else middle))
        return self._cells[-1][1]

    def _normals(self, nodes: list[int]) -> list[Tensor]:
        """The standard normal numbers of cells, `[batch, ...]` each: draws with the cells as their numbers."""
        drawn: list[Tensor] = []
        for part, group in itertools.groupby(nodes, lambda node: node >> 32):
            draws = [node & WORD for node in group]
            key = key_of(self.seed, PATH, part)
            drawn += normals(key, draws, self.first, self.shape, torch.float64, self._working).unbind()
        return drawn
