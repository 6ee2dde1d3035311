"""The error of composed posteriors against the number n of observations, for a network.

    python benchmarks/composition.py

The parameter is theta ~ N(0, 1), and each observation is x = theta + theta^3/4 + 0.5 e, whose posterior is far from
normal; given n of them the exact posterior is computed on a grid. One network learns p(theta | x) from 2,000
simulations, and its posteriors are composed (`SimulationPosterior.sample(..., repeated=True)`, 100 draws). The error of
the mean is in standard deviations of the exact posterior, and the spread is the ratio of standard deviations. Each line
holds three sets of observations of parameters of their own. Writes results/composition.md.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch

from backdrift import SimulationPosterior

RESULTS = Path(__file__).parent / "results"
COUNTS, DRAWS, NOISE = (1, 3, 10, 30, 100, 300, 1000), 100, 0.5
TRUTHS = (-0.8, 0.1, 1.2)


def simulate(theta: np.ndarray, g: np.random.Generator) -> np.ndarray:
    return theta + theta**3 / 4 + NOISE * g.standard_normal(theta.shape)


def exact(x: np.ndarray) -> tuple[float, float]:
    """The mean and the standard deviation of the posterior given all of x."""
    grid = np.linspace(-4, 4, 400_001)
    log_p = -0.5 * grid**2
    centre, n = grid + grid**3 / 4, len(x)
    log_p -= (n * centre**2 - 2 * centre * x.sum()) / (2 * NOISE**2)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = float((p * grid).sum())
    return mean, math.sqrt(float((p * (grid - mean) ** 2).sum()))


def shown(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}"


def main() -> None:
    torch.set_num_threads(1)
    g = np.random.default_rng(0)
    theta = g.standard_normal((2000, 1))
    small = {"members": 1, "hidden": 32, "depth": 1, "ode_steps": 12, "random_state": 0}
    posterior = SimulationPosterior(**small).fit(theta, simulate(theta, g))
    sets = [simulate(np.full((max(COUNTS), 1), truth), np.random.default_rng(k)) for k, truth in enumerate(TRUTHS)]
    lines = [
        "# The error of composed posteriors against the number of observations, for a network",
        "",
        "`python benchmarks/composition.py`, whose first lines say what is measured. ± is a standard error over three",
        f"sets of observations. {DRAWS} draws give the mean with an error of {1 / math.sqrt(DRAWS):.2f}, and the",
        f"spread with {1 / math.sqrt(2 * DRAWS):.2f}, which is part of what is shown. s: processor seconds for a set.",
        "",
        "| n | error of the mean, in exact standard deviations | spread, composed/exact | s |",
        "| --- | --- | --- | --- |",
    ]
    for n in COUNTS:
        shift, spread, began = [], [], time.process_time()
        for x in sets:
            mean, std = exact(x[:n])
            draws = posterior.sample(x[:n], DRAWS, repeated=True, random_state=0)
            shift.append(abs(draws.mean() - mean) / std)
            spread.append(draws.std() / std)
        seconds = (time.process_time() - began) / len(TRUTHS)
        lines.append(f"| {n:,} | {shown(np.array(shift))} | {shown(np.array(spread))} | {seconds:.1f} |")
        print(lines[-1], flush=True)
        (RESULTS / "composition.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
