"""Posteriors from simulations on six tasks of the sbibm benchmark (Lueckmann et al. 2021): C2ST to its reference draws.

    pip download --no-deps sbibm==1.1.0 && unzip sbibm-1.1.0-*.whl -d sbibm
    python benchmarks/sbi.py --reference sbibm/sbibm/tasks

The simulators are our own. Observations and reference draws are the csv files that sbibm's package ships. C2ST is
sbibm's: scikit-learn's MLP with two layers of 10 d units, five folds, numbers standardised by the reference; 1,000
draws against 1,000 of the reference. 0.5 is perfect. `SimulationPosterior` has its defaults. Each cell is added to
results/sbi.jsonl when it is done, and a cell that is there is not run again. Writes results/sbi.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from backdrift import SimulationPosterior

RESULTS = Path(__file__).parent / "results"
DRAWS = 1000

PEERS = {
    ("two_moons", 1000): (0.71, 0.75),
    ("gaussian_mixture", 1000): (0.77, 0.77),
    ("slcp", 1000): (0.96, 0.94),
    ("gaussian_linear_uniform", 1000): (0.77, 0.76),
    ("gaussian_linear", 1000): (0.65, 0.69),
    ("bernoulli_glm", 1000): (0.78, 0.77),
    ("two_moons", 10000): (0.55, 0.67),
    ("gaussian_mixture", 10000): (0.64, 0.63),
    ("slcp", 10000): (0.77, 0.82),
    ("gaussian_linear_uniform", 10000): (0.64, 0.64),
    ("gaussian_linear", 10000): (0.57, 0.57),
    ("bernoulli_glm", 10000): (0.69, 0.61),
}
"""NPSE and FMPE of sbi 0.27 with their defaults, means of observations 1 to 3, measured earlier on
other simulations with the same C2ST. This script does not run sbi."""

Random = np.random.Generator


@dataclass(frozen=True)
class Task:
    """A prior and a simulator. `draw(random, n)` gives parameters, `simulate(random, theta)` observations."""

    prior: object
    draw: Callable[[Random, int], np.ndarray]
    simulate: Callable[[Random, np.ndarray], np.ndarray]


def uniform(bound: float, d: int, simulate: Callable[[Random, np.ndarray], np.ndarray]) -> Task:
    return Task((np.full(d, -bound), np.full(d, bound)), lambda g, n: g.uniform(-bound, bound, (n, d)), simulate)


def two_moons(g: Random, theta: np.ndarray) -> np.ndarray:
    angle, radius = g.uniform(-math.pi / 2, math.pi / 2, len(theta)), g.normal(0.1, 0.01, len(theta))
    a, b = theta.T
    return np.stack(
        [
            radius * np.cos(angle) + 0.25 - np.abs(a + b) / math.sqrt(2),
            radius * np.sin(angle) + (b - a) / math.sqrt(2),
        ],
        1,
    )


def gaussian_mixture(g: Random, theta: np.ndarray) -> np.ndarray:
    width = np.where(g.random(len(theta)) < 0.5, 1.0, 0.1)[:, None]
    return theta + width * g.standard_normal(theta.shape)


def gaussian(g: Random, theta: np.ndarray) -> np.ndarray:
    return theta + math.sqrt(0.1) * g.standard_normal(theta.shape)


def slcp(g: Random, theta: np.ndarray) -> np.ndarray:
    first, second, correlation = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    e = g.standard_normal((len(theta), 4, 2))
    u = theta[:, 0, None] + first[:, None] * e[..., 0]
    rest = np.sqrt(1 - correlation**2)[:, None]
    v = theta[:, 1, None] + second[:, None] * (correlation[:, None] * e[..., 0] + rest * e[..., 1])
    return np.stack([u, v], 2).reshape(len(theta), 8)


def bernoulli_glm(files: Path) -> Task:
    """The stimulus is that of sbibm's files, since the reference draws belong to it."""
    design = torch.load(files / "design_matrix.pt", weights_only=True).numpy()
    stimulus = torch.load(files / "stimulus_I.pt", weights_only=True).numpy().reshape(-1)
    m = 9
    step = np.eye(m) - np.diag(np.ones(m - 1), -1)
    smooth = step @ step + np.diag(np.sqrt(np.arange(m) / m))
    precision = np.zeros((m + 1, m + 1))
    precision[0, 0], precision[1:, 1:] = 0.5, smooth.T @ smooth
    covariance = np.linalg.inv(precision)
    root = np.linalg.cholesky(covariance)

    def simulate(g: Random, theta: np.ndarray) -> np.ndarray:
        spikes = (g.random((len(theta), len(design))) < 1 / (1 + np.exp(-theta @ design.T))).astype(float)
        # sbibm correlates with padding 8 and keeps the last nine lags.
        padded = np.pad(spikes, ((0, 0), (8, 8)))
        lags = padded.shape[1] - len(stimulus) + 1
        average = np.stack([padded[:, k : k + len(stimulus)] @ stimulus for k in range(lags)][-m:], 1)
        return np.concatenate([spikes.sum(1, keepdims=True), average], 1)

    prior = torch.distributions.MultivariateNormal(torch.zeros(m + 1).double(), torch.from_numpy(covariance))
    return Task(prior, lambda g, n: g.standard_normal((n, m + 1)) @ root.T, simulate)


def tasks(reference: Path) -> dict[str, Task]:
    ten = torch.distributions.Normal(torch.zeros(10), math.sqrt(0.1))
    return {
        "two_moons": uniform(1, 2, two_moons),
        "gaussian_mixture": uniform(10, 2, gaussian_mixture),
        "slcp": uniform(3, 5, slcp),
        "gaussian_linear_uniform": uniform(1, 10, gaussian),
        "gaussian_linear": Task(ten, lambda g, n: math.sqrt(0.1) * g.standard_normal((n, 10)), gaussian),
        "bernoulli_glm": bernoulli_glm(reference / "bernoulli_glm" / "files"),
    }


def read(folder: Path, name: str) -> np.ndarray:
    return np.loadtxt(folder / name, delimiter=",", skiprows=1, ndmin=2)


def c2st(reference: np.ndarray, draws: np.ndarray) -> float:
    """sbibm's classifier two-sample test: the accuracy of an MLP in five folds."""
    mean, std, d = reference.mean(0), reference.std(0, ddof=1), reference.shape[1]
    rows = (np.concatenate([reference, draws]) - mean) / std
    label = np.repeat([0, 1], [len(reference), len(draws)])
    mlp = MLPClassifier((10 * d, 10 * d), max_iter=10000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    return float(cross_val_score(mlp, rows, label, cv=folds).mean())


def cell(task: Task, files: Path, n: int, seed: int, observations: range) -> dict[str, object]:
    """The C2ST of each observation, of one fit."""
    g = np.random.default_rng((seed, n))
    theta = task.draw(g, n)
    x = task.simulate(g, theta)
    began, used = time.time(), time.process_time()
    posterior = SimulationPosterior(random_state=seed).fit(theta, x, prior=task.prior)
    seconds, cpu = time.time() - began, time.process_time() - used
    values, outside = [], 0
    for number in observations:
        folder = files / f"num_observation_{number}"
        draws = posterior.sample(read(folder, "observation.csv")[0], DRAWS, random_state=number)
        outside += int((~posterior.parameters_.inside(torch.from_numpy(draws))).sum())
        values.append(c2st(read(folder, "reference_posterior_samples.csv.bz2")[:DRAWS], draws))
    return {
        "c2st": values,
        "outside": outside,
        "seconds": seconds,
        "cpu": cpu,
        "steps": posterior.n_steps_,
        "gains": posterior.gains_,
    }


def table(cells: list[dict]) -> str:
    lines = [
        "# Posteriors from simulations",
        "",
        "`python benchmarks/sbi.py`: C2ST of 1,000 draws to sbibm's reference draws, 0.5 is perfect; the mean of the",
        "observations, and each of them; how many draws lie outside the prior. One fit and one seed a cell, with the",
        "defaults. The columns of sbi 0.27 were measured earlier, on other simulations, with the same C2ST; the script",
        "does not run sbi. A difference of one seed is no ranking: the spread over fits is not measured.",
        "",
        "| task | simulations | ours | each observation | NPSE | FMPE | outside the prior | fit, CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in sorted(cells, key=lambda c: (c["n"], list(dict(PEERS)).index((c["task"], c["n"])))):
        npse, fmpe = PEERS[c["task"], c["n"]]
        each = ", ".join(f"{v:.2f}" for v in c["c2st"])
        name, mean = c["task"].replace("_", " "), np.mean(c["c2st"])
        lines.append(
            f"| {name} | {c['n']:,} | {mean:.3f} | {each} | {npse:.2f} | {fmpe:.2f} | {c['outside']} | {c['cpu']:.0f} |"
        )
    missing = [
        f"{t.replace('_', ' ')} at {n:,}" for t, n in PEERS if not any((c["task"], c["n"]) == (t, n) for c in cells)
    ]
    return (
        "\n".join([*lines, "", *(["Not yet run:", "", *(f"- {line}" for line in missing)] if missing else [])]) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="the folder `tasks` of sbibm's package")
    parser.add_argument("--simulations", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--tasks", nargs="+", help="names of tasks; all by default")
    parser.add_argument("--observations", type=int, nargs=2, default=(1, 3), help="the first and the last")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "sbi.jsonl")
    asked = parser.parse_args()
    known = tasks(asked.reference)
    cells = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    for n in asked.simulations:
        for name in asked.tasks or known:
            if any((c["task"], c["n"]) == (name, n) for c in cells):
                continue
            files = asked.reference / name / "files"
            found = cell(known[name], files, n, asked.seed, range(asked.observations[0], asked.observations[1] + 1))
            cells.append({"task": name, "n": n, "seed": asked.seed, **found})
            with asked.out.open("a") as file:
                file.write(json.dumps(cells[-1]) + "\n")
            print(cells[-1], flush=True)
            asked.out.with_suffix(".md").write_text(table(cells))


if __name__ == "__main__":
    main()
