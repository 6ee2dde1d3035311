"""A stream of 100,000 small images: time to the first step, memory over an epoch, and the order after a resume.

    python benchmarks/streams.py [folder]

It makes the images once: as one array, as PNG files in ten folders of classes, as PNG files in ten tar shards, and as a
table of the `datasets` library. Each is measured in a process of its own, and the array and the shards in two processes
of torchrun as well, which share the batches.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from backdrift.data import HuggingFace, Stream, WebDataset
from backdrift.data.streams import StoredData
from backdrift.training.shuffle import Shuffle

N, SIZE, BATCH = 100_000, 16, 256
SHARDS = 10


def encoded(picture: np.ndarray) -> bytes:
    """A picture as a PNG file."""
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "png", compress_level=1)
    return written.getvalue()


def make(folder: Path) -> None:
    """Write the images, unless they are there."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, size=(N, SIZE, SIZE), dtype=np.uint8)
    if not (folder / "pictures.npy").exists():
        np.save(folder / "pictures.npy", pictures)
    if not (folder / "images").exists():
        for label in range(10):
            (folder / "images" / str(label)).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            (folder / "images" / str(number % 10) / f"{number:06d}.png").write_bytes(encoded(picture))
    if not (folder / "shards").exists():
        (folder / "shards").mkdir()
        for part in range(SHARDS):
            with tarfile.open(folder / "shards" / f"part-{part:02d}.tar", "w") as archive:
                for number in range(part * N // SHARDS, (part + 1) * N // SHARDS):
                    for kind, content in (("png", encoded(pictures[number])), ("cls", str(number % 10).encode())):
                        info = tarfile.TarInfo(f"{number:06d}.{kind}")
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))
    if not (folder / "table").exists():
        import datasets

        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        rows = {
            "image": [{"bytes": encoded(picture), "path": None} for picture in pictures],
            "label": np.arange(N) % 10,
        }
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "table"))


def opened(path: Path) -> StoredData:
    """The stream at a path."""
    if path.name == "shards":
        return WebDataset(path)
    return HuggingFace(path, labels="label") if path.name == "table" else Stream(path)


def memory() -> float:
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure(path: Path) -> None:
    """Print what a pass over the stream costs. Of several processes each reads its share of every batch."""
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    before, began, worked = memory(), time.perf_counter(), time.process_time()
    data = opened(path)
    order = Shuffle(len(data), BATCH, seed=0)
    first = data.records(order(0)[rank::processes]).sample
    ready, ready_work = time.perf_counter() - began, time.process_time() - worked
    steps = len(data) // BATCH
    resident, worked, seen = [memory()], time.process_time(), 0
    for step in range(steps):
        last = data.records(order(step)[rank::processes]).sample
        seen += len(last)
        if step % (steps // 8) == 0:
            resident.append(memory())
    seconds = time.process_time() - worked
    later = opened(path)
    again = later.records(Shuffle(len(later), BATCH, seed=0)(steps - 1)[rank::processes]).sample
    who = path.name if processes == 1 else f"{path.name}, process {rank + 1} of {processes}"
    print(
        f"| {who} | {ready:.1f} s | {ready_work:.1f} s | {seen / seconds:.0f} | {before:.0f} | {resident[0]:.0f} | "
        f"{resident[-1]:.0f} | {max(resident):.0f} | {'yes' if torch.equal(last, again) else 'no'} |",
        flush=True,
    )
    assert first.shape == (len(range(rank, BATCH, processes)), 1, SIZE, SIZE)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    make(folder)
    print(
        "| stream | first batch after | processor time until then | images per second of processor time | MB before "
        "| MB at first batch | MB at end | most MB | same after a resume |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    for name in ("pictures.npy", "images", "shards", "table"):
        subprocess.run([sys.executable, __file__, "--measure", str(folder / name)], check=True)
    for name in ("pictures.npy", "shards"):
        subprocess.run([sys.executable, *torchrun, __file__, "--measure", str(folder / name)], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "streams"))
