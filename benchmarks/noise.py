"""What random numbers for each sample cost, beside `torch.randn` of the whole batch and beside the former generators.

    python benchmarks/noise.py

It writes `benchmarks/results/noise.md`. The former way, one `torch.Generator` for each sample, is written out here in
its few lines. Times are processor time of one thread, the least of several runs, and include making
the source.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from backdrift.solvers import Noise

DRAWS = 20
SHAPES = [
    (1, 2),
    (64, 2),
    (1000, 2),
    (10000, 1),
    (10000, 2),
    (10000, 3),
    (100000, 2),
    (64, 1, 28, 28),
    (256, 3, 32, 32),
]
RESULTS = Path(__file__).parent / "results" / "noise.md"


class GeneratorForEachSample:
    """The former `Noise`: a generator for each sample, which draws 512 numbers at least."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.generators = [torch.Generator().manual_seed(i) for i in range(shape[0])]
        self.shape, self.ahead = shape, max(1, 512 // math.prod(shape[1:]))
        self.block, self.used = torch.empty(0), self.ahead

    def __call__(self) -> Tensor:
        if self.used == self.ahead:
            self.block = torch.empty(self.shape[0], self.ahead, *self.shape[1:])
            for part, generator in zip(self.block.unbind(), self.generators, strict=True):
                part.normal_(generator=generator)
            self.used = 0
        self.used += 1
        return self.block[:, self.used - 1]


def seconds(make: Callable[[], Callable[[], Tensor]], repeats: int) -> float:
    """Processor seconds of one draw, the least of some runs of `DRAWS` draws."""
    least = math.inf
    for _ in range(repeats):
        start = time.thread_time()
        draw = make()
        for _ in range(DRAWS):
            draw()
        least = min(least, (time.thread_time() - start) / DRAWS)
    return least


def kept(shape: tuple[int, ...], numbers: int) -> str:
    """Megabytes of the numbers that are kept ahead, and how many times the draw that is."""
    return f"{4 * numbers / 1e6:.2f} ({numbers / math.prod(shape):.1f})"


def row(shape: tuple[int, ...]) -> str:
    """One line of the table."""
    size = math.prod(shape)
    repeats = 3 if size > 100_000 else 9
    plain = seconds(lambda: lambda: torch.randn(shape), repeats)
    now = seconds(lambda: Noise(0, shape), repeats)
    before = seconds(lambda: GeneratorForEachSample(shape), repeats)
    source = Noise(0, shape)
    most = 0
    for _ in range(DRAWS):
        source()
        most = max(most, (len(source._ahead) + 1) * size)
    former = size * max(1, 512 // math.prod(shape[1:]))
    cells = [" x ".join(map(str, shape)), f"{1e6 * plain:.1f}", f"{1e6 * now:.1f}", f"{now / plain:.1f}"]
    cells += [f"{1e6 * before:.1f}", f"{before / plain:.1f}", kept(shape, most), kept(shape, former)]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure every shape and write the table."""
    torch.set_num_threads(1)
    lines = [
        "# Random numbers for each sample",
        "",
        f"Processor time of one draw of {DRAWS}, one thread, torch {torch.__version__}; `python benchmarks/noise.py`.",
        "Former: one generator for each sample. Kept: megabytes of numbers made ahead (and how many draws that is).",
        "",
        "| shape | randn, µs | now, µs | now / randn | former, µs | former / randn | kept now | kept formerly |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for shape in SHAPES:
        lines.append(row(shape))
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
