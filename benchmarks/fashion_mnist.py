"""Fashion-MNIST on one card in ten minutes: bits/dim, KID at 5, 10 and 20 evaluations, a grid, and pictures a second.

    python benchmarks/fashion_mnist.py --path FOLDER        # results/fashion_mnist_gpu.{md,png}
    python benchmarks/fashion_mnist.py --path FOLDER --steps 20 --scored 4 --samples 600 --to tried    # on a CPU

FOLDER holds the IDX files of the Debian package dataset-fashion-mnist.

**It has not been run on a GPU yet.** It was tried on a CPU with few steps, which shows that it runs, and no more.

The network is the class-conditional one of `data=fashion_mnist`, with larger batches than on a CPU. Samples have the
classes in equal parts, as the test set has. KID is on the features of a small classifier that is fitted to the classes
of the training set (`LabelFeatures`). Beside it stands that of as many training pictures. The results are written as
they come.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from backdrift.data.views import readable, readable_data
from backdrift.evaluation.label_features import LabelFeatures
from backdrift.evaluation.quality import FeatureSet, kernel_distance
from backdrift.evaluation.sampling import draw
from backdrift.evaluation.solver_comparison import comparable
from backdrift.models import Label
from backdrift.runs.device import device_named
from backdrift.runs.run import Run
from backdrift.solvers import Adams

RESULTS = Path(__file__).parent / "results"
BUDGETS = (5, 10, 20)
"""Evaluations for each sample."""


def command(*line: str, cwd: Path) -> tuple[list[str], float]:
    """What `backdrift` prints for a line, and the seconds it took.

    Raises:
        RuntimeError: with what it says, if it fails.
    """
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "backdrift", *line], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"backdrift {' '.join(line)}: {done.stderr.strip()}")
    return done.stdout.strip().splitlines(), time.perf_counter() - began


def distances(run: Run, device: torch.device, n: int) -> list[str]:
    """A line for each budget: KID of `n` samples to the test set, and how many of them are drawn in a second."""
    data, model = run.data(), run.model(device=device)
    features = LabelFeatures(data)

    def of(pictures: torch.Tensor) -> FeatureSet:
        return FeatureSet(features).add(comparable(data.units, pictures))

    test = of(readable_data(data.units, data.test[:n]))
    own = of(readable_data(data.units, data.train[torch.randperm(len(data.train))[:n]]))
    lines = [f"| {n} training pictures | {kernel_distance(own, test)} | |"]
    given = model.given(Label(torch.arange(n, device=device) % data.classes))  # type: ignore[operator]
    for nfe in BUDGETS:
        draw(given, Adams(steps=nfe), data.shape, data.classes, 0)  # to warm up
        began = time.perf_counter()
        x = draw(given, Adams(steps=nfe), data.shape, n, 1)
        speed = n / (time.perf_counter() - began)
        lines.append(f"| {nfe} evaluations | {kernel_distance(of(readable(data.units, x)), test)} | {speed:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="the folder of the IDX files")
    parser.add_argument("--device", default="auto", help="as the key device of the commands")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--scored", type=int, default=10_000, help="test pictures whose code length is measured")
    parser.add_argument("--samples", type=int, default=10_000, help="for each KID")
    parser.add_argument("--to", type=Path, default=RESULTS / "fashion_mnist_gpu", help="the results, without an ending")
    options = parser.parse_args()
    device = device_named(options.device)
    file = options.to.with_suffix(".md")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def write(text: str, mode: str = "a") -> None:
        print(text, flush=True)
        with file.open(mode, encoding="utf-8") as results:
            results.write(text + "\n\n")

    write(f"# Fashion-MNIST on {name}, torch {torch.__version__}\n\n`python {' '.join(sys.argv)}`", "w")
    with tempfile.TemporaryDirectory() as temporary:
        folder, at = Path(temporary), f"device={device}"
        recipe = [f"train.steps={options.steps}", f"train.batch={options.batch}", "report=false"]
        _, took = command("train", "data=fashion_mnist", f"data.path={options.path.resolve()}", *recipe, at, cwd=folder)
        trained = options.steps * options.batch / took
        write(f"Training: {options.steps} steps of {options.batch} pictures, {took:.0f} s, {trained:.0f} pictures/s.")
        run = Run.open(next((folder / "runs").iterdir()))
        lines = distances(run, device, options.samples)
        head = f"| {options.samples} samples | KID to the test set | samples/s |\n| --- | --- | --- |\n"
        write(head + "\n".join(lines))
        command("sample", "run=latest", "label=all", "n=10", at, cwd=folder)
        (grid,) = run.path.glob("samples-*/samples.png")
        options.to.with_suffix(".png").write_bytes(grid.read_bytes())
        write(f"![Ten samples of each class]({options.to.name}.png)")
        said, took = command("likelihood", "run=latest", f"n={options.scored}", at, cwd=folder)
        write(f"Code length, {took:.0f} s: {next(line for line in said if 'bits/dim' in line)}")


if __name__ == "__main__":
    main()
