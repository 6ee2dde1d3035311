"""A stream of 100,000 small images: time to the first step, memory over an epoch, and the order after a resume.

    python benchmarks/streams.py [folder]

It makes the images once, as PNG files in ten folders of classes, and as one array.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from backdrift.data import Stream
from backdrift.training.shuffle import Shuffle

N, SIZE, BATCH = 100_000, 16, 256


def make(folder: Path) -> None:
    """Write the images, unless they are there."""
    if (folder / "pictures.npy").exists():
        return
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, size=(N, SIZE, SIZE), dtype=np.uint8)
    for label in range(10):
        (folder / "images" / str(label)).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "images" / str(number % 10) / f"{number:06d}.png", compress_level=1)
    np.save(folder / "pictures.npy", pictures)


def memory() -> float:
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure(path: Path) -> None:
    """Print what a pass over the stream costs."""
    before, began = memory(), time.perf_counter()
    data = Stream(path)
    order = Shuffle(len(data), BATCH, seed=0)
    first = data.records(order(0)).sample
    ready = time.perf_counter() - began
    steps = len(data) // BATCH
    resident, began = [memory()], time.perf_counter()
    for step in range(steps):
        last = data.records(order(step)).sample
        if step % (steps // 8) == 0:
            resident.append(memory())
    seconds = time.perf_counter() - began
    later = Stream(path)
    again = later.records(Shuffle(len(later), BATCH, seed=0)(steps - 1)).sample
    print(
        f"| {path.name} | {ready:.1f} s | {len(data) / seconds:.0f} | {before:.0f} | {resident[0]:.0f} | "
        f"{resident[-1]:.0f} | {max(resident):.0f} | {'yes' if torch.equal(last, again) else 'no'} |"
    )
    assert first.shape == (BATCH, 1, SIZE, SIZE)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    make(folder)
    print(
        "| stream | first batch after | images/s | MB before | MB at first batch | MB at end | most MB "
        "| same after a resume |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in ("pictures.npy", "images"):
        measure(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "streams"))
