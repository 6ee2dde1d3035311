"""Bits/dim of a network of diffusers that was trained here, by several answers to the same question.

    python benchmarks/digits_pipeline.py FOLDER
    python benchmarks/diffusers_bits.py FOLDER

The likelihood is that of the probability flow of the network, for dequantised test digits. The exact divergence on a
fixed grid, on a finer grid, and random probes have one true value for each digit, so that they must agree within their
stated errors. The bound is that of the reverse-time SDE, whose density is another one where the score is not exact.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMPipeline
from torch import Tensor

from backdrift.data import Digits
from backdrift.interop import from_diffusers
from backdrift.solvers import elbo, log_likelihood

Answer = Callable[[], tuple[Tensor, Tensor, Tensor]]
"""Gives log-densities in nats `[n]`, the errors of their random numbers, and those of their solver."""


def table(answers: dict[str, Answer], log_jacobian: float, dim: int) -> str:
    """A row for each answer, in bits/dim, with its difference from the first one."""
    lines = [
        "| answer | bits/dim | difference from the first, mean over the digits | stated error of the difference | "
        "largest difference of one digit / its stated error | seconds |",
        "|---|---|---|---|---|---|",
    ]
    first: tuple[Tensor, Tensor, Tensor] | None = None
    for name, answer in answers.items():
        began = time.perf_counter()
        found = tuple(part.double() for part in answer())
        seconds = time.perf_counter() - began
        bits = -(found[0] + log_jacobian) / (dim * math.log(2))
        cells = [name, f"{float(bits.mean()):.4f} ± {float(bits.std()) / math.sqrt(len(bits)):.4f}"]
        if first is None:
            first = found
            cells += ["", "", ""]
        else:
            gap = (first[0] - found[0]) / (dim * math.log(2))
            solver = first[2].abs() + found[2].abs()
            each = (found[1].square() + first[1].square()).sqrt() / (dim * math.log(2))
            solver = solver / (dim * math.log(2))
            mean = math.sqrt(float(each.square().sum())) / len(gap) + float(solver.mean())
            cells += [f"{float(gap.mean()):+.4f}", f"{mean:.4f}", f"{float((gap.abs() / (each + solver)).max()):.2f}"]
        lines.append("| " + " | ".join([*cells, f"{seconds:.0f}"]) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the pipeline that digits_pipeline.py wrote")
    parser.add_argument("--digits", type=int, default=4, help="of the test set")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/diffusers_bits.md"))
    given = parser.parse_args()
    data = Digits()
    pipeline = DDIMPipeline.from_pretrained(str(given.folder))
    pipeline.unet.eval().requires_grad_(False)
    model = from_diffusers(pipeline, data_std=data.std)
    rows = data.test[: given.digits]
    x = data.to_model(rows, torch.Generator().manual_seed(0))

    def flow(**settings: object) -> Answer:
        def answer() -> tuple[Tensor, Tensor, Tensor]:
            found = log_likelihood(model, x, **settings)  # type: ignore[arg-type]
            return found.log_prob, found.standard_error, found.solver_error.nan_to_num(0.0)  # NaN where not asked for

        return answer

    def bound() -> tuple[Tensor, Tensor, Tensor]:
        found = elbo(model, x, seed=2)
        return found.value, found.standard_error, torch.zeros(len(x))

    answers = {
        "probability flow, exact divergence, 8 steps": flow(steps=8, probes="exact"),
        "probability flow, exact divergence, 16 steps": flow(steps=16, probes="exact", estimate_error=False),
        "probability flow, 8 random probes, 8 steps": flow(steps=8, probes=8, seed=1),
        "variational bound of the reverse-time SDE": bound,
    }
    found = table(answers, float(data.units.log_jacobian(rows)[0]), rows[0].numel())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers"))
    parts = [
        "# Bits/dim of a network of diffusers, by several answers",
        f"    python benchmarks/digits_pipeline.py FOLDER\n    python benchmarks/diffusers_bits.py FOLDER "
        f"--digits {given.digits}",
        f"{versions}; CPU, float32. {given.digits} test digits of 8x8 pixels and 17 levels, with one uniform "
        "dequantisation each. ± is a standard error over the digits. A stated error is one standard error of the "
        "random probes and the estimated error of the solver.",
        found,
        "The last column but one divides each digit's difference by its stated error: above about 4 two answers do not "
        "agree. The divergence of a network may be rough in time, by waves of a few timesteps, which the 24 to 48 "
        "divergences along a path meet at random. The stated error holds the noise that the finer quadrature shows. "
        "The flow and the bound are densities of different processes where the score is not exact, so that their "
        "difference is no error of either.",
    ]
    given.out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
