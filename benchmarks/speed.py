"""Processor seconds of long calls, each before and after what made it faster, in one run.

    python benchmarks/speed.py            # writes results/speed.md
    python benchmarks/speed.py compiled   # one section, printed

Sections: `compiled` (compile=true beside the plain loop), `fokker_planck` (200 by 200 cells) and `score_density`
(50,000 rows of 10 columns). Times are of the processor, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import eye_array
from scipy.sparse.linalg import splu

from backdrift import ScoreDensity
from backdrift.models import MLP, Denoiser, GaussianMixture, UNet
from backdrift.sde import VP
from backdrift.solvers import Adams, Compiled, log_likelihood, sample
from backdrift.solvers.fokker_planck import Cells, evolve, generator

RESULTS = Path(__file__).parent / "results" / "speed.md"
ROWS = 50_000


def seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """The median processor time of a call."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return sorted(times)[repeats // 2]


def with_weights(network: torch.nn.Module) -> Denoiser:
    """A denoiser whose last layer is not zero."""
    model = Denoiser(network, VP(), 0.7).eval().requires_grad_(False)
    for value in model.network.parameters():
        value.normal_(std=0.05)
    return model


def compiled() -> Iterator[str]:
    """The plain loop beside the compiled one, on the CPU: Adams in 8 steps, and exact divergences."""
    torch.manual_seed(0)
    cases = {
        "MLP, 64 samples of 2": (with_weights(MLP(2)), (64, 2)),
        "MLP, 1024 samples of 2": (with_weights(MLP(2)), (1024, 2)),
        "small U-Net, 16 pictures of 8x8": (with_weights(UNet(channels=1, widths=[16, 32], blocks=1)), (16, 1, 8, 8)),
    }
    for name, (model, shape) in cases.items():
        plain, fast = Adams(steps=8), Compiled(Adams(steps=8))
        first = seconds(lambda: sample(model, fast, shape))  # noqa: B023, called here
        gap = float((sample(model, fast, shape) - sample(model, plain, shape)).abs().max())
        before, after = (seconds(lambda: sample(model, each, shape), 15) for each in (plain, fast))  # noqa: B023
        yield (
            f"{name}: {1e3 * before:.1f} ms plain, {1e3 * after:.1f} ms compiled ({before / after:.2f} times); "
            f"{first:.0f} s to compile; largest difference {gap:.1g}"
        )
    model, x = with_weights(MLP(10)), torch.randn(256, 10)
    first = seconds(lambda: log_likelihood(model, x, probes="exact", compile=True))
    before, after = (seconds(lambda: log_likelihood(model, x, probes="exact", compile=c), 3) for c in (False, True))  # noqa: B023
    yield (
        f"likelihood, MLP, 256 rows of 10: {before:.2f} s plain, {after:.2f} s compiled ({before / after:.2f} times); "
        f"{first:.0f} s to compile"
    )


def fokker_planck() -> Iterator[str]:
    """VP of a mixture from 0 to 1 on 200 by 200 cells, beside two factorisations of the whole matrix in each step."""
    means = torch.tensor([[-1.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
    model = GaussianMixture(means, torch.tensor([[0.2, 0.2], [0.25, 0.3]], dtype=torch.float64), sde=VP())
    cells = Cells([(-5, 5), (-5, 5)], 200)
    began = time.process_time()
    found = evolve(VP(), lambda x: model.log_prob(x).exp(), [0.0, 0.1, 0.4, 1.0], cells)
    after = time.process_time() - began
    q, _ = generator(VP(), cells, 0.5)
    matrix = (eye_array(q.shape[0]) - 1e-3 * q).tocsc()
    options = {"SymmetricMode": True}
    one = seconds(
        lambda: splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options).solve(
            np.ones(q.shape[0])
        )
    )
    yield f"{after:.1f} s for {found.steps} steps; two factorisations in each, as before: {2 * one * found.steps:.0f} s"
    for t, density in zip(found.times[1:], found.density[1:], strict=True):
        exact = model.log_prob(cells.points().reshape(-1, 2), float(t)).exp().reshape(200, 200).numpy()
        distance = 0.5 * np.abs(density - exact).sum() * cells.volume
        yield f"t = {t:g}: total variation from the closed form {distance:.2g}"


def score_density() -> Iterator[str]:
    """`ScoreDensity.score_samples` with its defaults, from 2048 rows, beside float64 with 16 steps, as before."""
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.normal(size=(4, 10))

    def draw(n: int) -> np.ndarray:
        return centres[rng.integers(4, size=n)] + 0.6 * rng.normal(size=(n, 10))

    density, x = ScoreDensity(random_state=0, steps=500).fit(draw(4000)), draw(2048)
    eps, alpha = density._end()
    z = density.units_.standardised(torch.tensor(x)) @ torch.from_numpy(density.whitening_.T)

    def before() -> torch.Tensor:
        parts = (alpha * z).split(512)
        settings = {"steps": 16, "probes": "exact", "eps": eps, "estimate_error": False}
        return torch.cat([log_likelihood(density.model_, part, **settings).log_prob for part in parts])  # type: ignore[arg-type]

    scale = ROWS / len(x)
    yield f"before: {scale * seconds(before):.0f} s for {ROWS} rows"
    yield f"now: {scale * seconds(lambda: density.score_samples(x)):.0f} s"
    rounded = copy.deepcopy(density.model_).float()

    def finer() -> None:
        for part in (alpha * z).float().split(512):
            log_likelihood(rounded, part, eps=eps, **density._settings(10))

    yield f"now, with errors by a solve of twice the steps, as before: {scale * seconds(finer):.0f} s"
    yield f"now, with errors: {scale * seconds(lambda: density.score_samples(x, return_std=True)):.0f} s"
    few = (alpha * z)[:512]
    fine = log_likelihood(density.model_, few, steps=48, divergences=96, probes="exact", eps=eps, estimate_error=False)
    values, errors = density.score_samples(x[:512], return_std=True)
    constant = z.shape[1] * math.log(alpha) + density.log_determinant_
    truth = (fine.log_prob + density.units_.log_jacobian(torch.tensor(x[:512])) + constant).numpy()
    gap = np.abs(values - truth)
    yield (
        f"error of the solver: mean {gap.mean():.2g} nats, 95% below {np.quantile(gap, 0.95):.2g}; the stated "
        f"intervals hold {np.mean(gap <= 1.96 * errors):.1%} of rows"
    )


SECTIONS = {"compiled": compiled, "fokker_planck": fokker_planck, "score_density": score_density}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="?", choices=list(SECTIONS), help="this one alone, printed and not written")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"# Speed\n\n`python benchmarks/speed.py`, processor seconds of one thread, torch {torch.__version__}\n"]
    for name in [asked.section] if asked.section else SECTIONS:
        lines.append(f"## {name}\n\n{SECTIONS[name].__doc__}\n")
        for line in SECTIONS[name]():
            lines.append(f"- {line}")
            print(f"{name}: {line}", flush=True)
        lines.append("")
    if not asked.section:
        RESULTS.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
