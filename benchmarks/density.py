"""Held-out log-likelihood of tables: `ScoreDensity` beside scikit-learn's density estimators.

    python benchmarks/density.py

Wine, breast cancer and diabetes come with scikit-learn; a larger table is simulated, from a density that
is known. Every estimator sees the same rows, standardised by the training rows of its fold, and chooses
its own settings by cross-validation within them; `ScoreDensity` has its defaults. Writes results/density.md.

What it says: ahead of the others, by nats a row, on breast cancer and diabetes, whose features nearly determine
one another (some of it the gain of any density that may be narrow there); level with a Gaussian mixture on rows
that come from a bent one, 0.30 nats from the truth. On wine it is ahead of the mixture by 0.38 nats: it starts at one
that finds the three classes as well, and its networks and the maps of the columns add to that.
A finer grid for the mixture (floors down to 1e-6, tied covariances) gave -14.90, -8.42 and -7.54 on wine, breast
cancer and diabetes: it chooses by three folds of its own, and not always well.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity

from backdrift import ScoreDensity
from backdrift.models import GaussianMixture as Mixture

FOLDS = 3


class Normal(LedoitWolf):
    """One normal density with Ledoit and Wolf's covariance."""

    def score_samples(self, x: np.ndarray) -> np.ndarray:
        constant = x.shape[1] * math.log(2 * math.pi) + np.linalg.slogdet(self.covariance_)[1]
        return -0.5 * (self.mahalanobis(x) + constant)


def kernel(x: np.ndarray) -> Any:
    return GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.1, 2, 12)}, cv=5).fit(x).best_estimator_


def mixture(x: np.ndarray) -> Any:
    most = (1, 2, 3, 5) if len(x) < 1000 else (3, 6, 12, 20)
    grid = {"n_components": most, "covariance_type": ["full", "diag"], "reg_covar": [1e-3, 1e-1]}
    return GridSearchCV(GaussianMixture(random_state=0, max_iter=300), grid, cv=3).fit(x).best_estimator_


ESTIMATORS: dict[str, Callable[[np.ndarray], Any]] = {
    "normal density (Ledoit & Wolf)": lambda x: Normal().fit(x),
    "KernelDensity, bandwidth by 5-fold CV": kernel,
    "GaussianMixture, components, covariance and its floor by 3-fold CV": mixture,
    "ScoreDensity, defaults": lambda x: ScoreDensity(random_state=0).fit(x),
}


def simulated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of eight features and their true log-densities: a mixture of three normals, bent by
    x_j <- x_j + x_(j-1)^2/2 for j = 1, 3, 5, which keeps volumes."""
    generator = torch.Generator().manual_seed(7)
    roots = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64) / 4
    truth = Mixture(
        torch.randn(3, 8, generator=generator, dtype=torch.float64),
        roots @ roots.mT + 0.05 * torch.eye(8),
        torch.tensor([0.5, 0.3, 0.2]),
    )
    x = truth.sample(n, torch.Generator().manual_seed(seed))
    log_p = truth.log_prob(x)
    bent = x.clone()
    bent[:, 1:6:2] += 0.5 * x[:, 0:5:2].square()
    return bent.numpy(), log_p.numpy()


def held_out(parts: tuple[np.ndarray, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Log-densities of the test rows in units of the training rows' standard deviations, and seconds taken."""
    torch.set_num_threads(1)
    train, test = parts
    mean, scale = train.mean(0), train.std(0)
    # In random order: wine is sorted by its class, which folds in order would leave out by turns.
    train, test = np.random.default_rng(0).permutation((train - mean) / scale), (test - mean) / scale
    values, seconds = {}, {}
    for name, fit in ESTIMATORS.items():
        began = time.process_time()
        values[name] = fit(train).score_samples(test)
        seconds[name] = time.process_time() - began
    return values, seconds


def folds(x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x[a], x[b]) for a, b in KFold(FOLDS, shuffle=True, random_state=0).split(x)]


def section(title: str, values: dict[str, np.ndarray], seconds: dict[str, float]) -> list[str]:
    ours = values["ScoreDensity, defaults"]

    def shown(v: np.ndarray) -> str:
        return f"{v.mean():.2f} ± {v.std(ddof=1) / math.sqrt(len(v)):.2f}"

    rows = [
        f"| {name} | {shown(v)} | {'' if v is ours else shown(ours - v)} | "
        f"{f'{seconds[name]:.1f}' if name in seconds else ''} |"
        for name, v in values.items()
    ]
    head = "| estimator | held-out log-likelihood, nats a row | ScoreDensity less this | s |"
    return [f"## {title}", "", head, "| --- | --- | --- | --- |", *rows, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "density.md")
    parser.add_argument("--jobs", type=int, default=2, help="folds at a time")
    asked = parser.parse_args()
    (train, _), (test, log_p) = simulated(2000, 0), simulated(500, 1)
    tables = {
        "Wine": load_wine().data,
        "Breast cancer": load_breast_cancer().data,
        "Diabetes, without the sex, which has no density": np.delete(load_diabetes(scaled=False).data, 1, axis=1),
    }
    tasks = [(train, test), *(part for x in tables.values() for part in folds(x))]
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        large, *found = pool.map(held_out, tasks)
    lines = [
        "# Densities of tables",
        "",
        "`python benchmarks/density.py`: features standardised by the training rows; ± is a standard error over",
        "rows, of differences row by row. s: processor seconds to choose settings, fit and score, one thread.",
        "",
    ]
    for k, (name, x) in enumerate(tables.items()):
        part = found[k * FOLDS : (k + 1) * FOLDS]
        values = {key: np.concatenate([fold[0][key] for fold in part]) for key in ESTIMATORS}
        seconds = {key: float(np.mean([fold[1][key] for fold in part])) for key in ESTIMATORS}
        lines += section(f"{name}: {len(x)} rows, {x.shape[1]} features, {FOLDS} folds", values, seconds)
    truth = {"the true density": log_p + np.log(train.std(0)).sum()}
    title = f"Simulated: {len(train)} rows to fit, {len(test)} held out, 8 features"
    lines += section(title, {**large[0], **truth}, large[1])
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text("\n".join(lines), encoding="utf-8")
    print(asked.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
