"""Held-out log scores and CRPS of tables: the estimators of backdrift beside four others.

    python -m venv treeffuser && treeffuser/bin/pip install treeffuser
    python benchmarks/tables.py --treeffuser treeffuser/bin/python

Two questions are asked. The first is p(y | x), the last column of a table given all others: diabetes, wine, breast
cancer and linnerud of scikit-learn, and two simulated tables whose conditional density is known. The second is the
density of whole rows, on every table that scikit-learn ships. A column with fewer than 20 distinct values is then a
category for all contestants, which have the same probabilities of the categories and one density of the other columns
for each category. (linnerud has 20 rows, all of whose columns have fewer; there they are numbers for all.)

Everybody sees the same rows and folds, standardised by the training rows. backdrift and treeffuser have their defaults,
the others choose their settings by cross-validation within the training rows. The log score of treeffuser is that of a
kernel density of 1,000 draws, since it has no density, and quantile gradient boosting has none either. CRPS comes from
64 quantiles for all. Each cell is added to results/tables.jsonl when it is done, and a cell that is there is not run
again. Writes results/tables.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.special import ndtri
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_linnerud, load_wine
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict

from backdrift import ConditionalScoreDensity, ScoreDensity
from backdrift.models import GaussianMixture as Mixture

RESULTS = Path(__file__).parent / "results"
FOLDS = 3
LEVELS = (np.arange(64) + 0.5) / 64
FEW = 20
"""A column with fewer distinct values is a category."""

Rows = np.ndarray


class Table(NamedTuple):
    """Rows, what the truth says of the last column given the others (log p and draws), or None, and test rows."""

    rows: Rows
    truth: Callable[[Rows], stats.rv_continuous] | None = None
    test: Rows | None = None


def sine(n: int, seed: int) -> Rows:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 3))
    return np.column_stack([x, sine_truth(x).rvs(random_state=generator)])


def sine_truth(x: Rows) -> stats.rv_continuous:
    """y given x ~ N(sin 2 x_1 + x_2/2, (0.2 + 0.3 |x_1|)^2); x_3 says nothing."""
    return stats.norm(np.sin(2 * x[:, 0]) + x[:, 1] / 2, 0.2 + 0.3 * np.abs(x[:, 0]))


def skewed(n: int, seed: int) -> Rows:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 2))
    return np.column_stack([x, skewed_truth(x).rvs(random_state=generator)])


def skewed_truth(x: Rows) -> stats.rv_continuous:
    """y given x has a gamma density of mean exp(x_1/2) and shape 1 + x_2^2."""
    shape = 1 + x[:, 1] ** 2
    return stats.gamma(shape, scale=np.exp(x[:, 0] / 2) / shape)


def conditional_tables() -> dict[str, Table]:
    return {
        "diabetes": Table(np.column_stack(load_diabetes(return_X_y=True, scaled=False))),
        "wine": Table(load_wine().data),
        "breast cancer": Table(load_breast_cancer().data),
        "linnerud": Table(np.column_stack([load_linnerud().data, load_linnerud().target[:, 0]])),
        "simulated, normal": Table(sine(1000, 0), sine_truth, sine(1000, 1)),
        "simulated, gamma": Table(skewed(1000, 0), skewed_truth, skewed(1000, 1)),
    }


def joint_tables() -> dict[str, Table]:
    return {
        "iris": Table(load_iris().data),
        "wine": Table(load_wine().data),
        "breast cancer": Table(load_breast_cancer().data),
        "diabetes": Table(load_diabetes(scaled=False).data),
        "linnerud": Table(np.column_stack([load_linnerud().data, load_linnerud().target])),
        "iris with its class": Table(np.column_stack(load_iris(return_X_y=True))),
        "wine with its class": Table(np.column_stack(load_wine(return_X_y=True))),
    }


class Predicted(NamedTuple):
    """log p of the test targets in nats, or None, and 64 quantiles of each, `[n, 64]`."""

    log_p: Rows | None
    quantiles: Rows


Contestant = Callable[[Rows, Rows, Rows, Rows], Predicted]


def ours(x: Rows, y: Rows, new: Rows, truth: Rows) -> Predicted:
    density = ConditionalScoreDensity(random_state=0).fit(x, y)
    return Predicted(density.log_prob(new, truth), density.quantile(new, LEVELS.tolist()))


def conditional_gaussian(x: Rows, y: Rows, new: Rows, truth: Rows) -> Predicted:
    """Ridge regression of y, and of the logarithm of the squared residuals of rows left out."""
    ridge = RidgeCV(np.logspace(-3, 5, 17))
    residual = y - cross_val_predict(ridge, x, y, cv=min(10, len(y)))
    spread = RidgeCV(np.logspace(-1, 5, 13)).fit(x, np.log(residual**2 + 1e-6))
    # The mean of exp of the regression of the logarithm is too low; the mean square of the residuals puts it right.
    factor = np.mean(residual**2 / np.exp(spread.predict(x)))
    mean, std = ridge.fit(x, y).predict(new), np.sqrt(factor * np.exp(spread.predict(new)))
    return Predicted(stats.norm(mean, std).logpdf(truth), mean[:, None] + std[:, None] * ndtri(LEVELS))


def quantile_boosting(x: Rows, y: Rows, new: Rows, truth: Rows) -> Predicted:
    """Gradient boosting of 16 quantiles, between which quantiles are interpolated."""
    levels = (np.arange(16) + 0.5) / 16
    grid = {"max_leaf_nodes": [2, 8], "max_iter": [50, 150]}
    boost = HistGradientBoostingRegressor(
        loss="quantile", quantile=0.5, learning_rate=0.05, min_samples_leaf=5, random_state=0
    )
    chosen = GridSearchCV(boost, grid, cv=3, scoring="neg_mean_absolute_error").fit(x, y).best_params_
    found = [boost.set_params(quantile=level, **chosen).fit(x, y).predict(new) for level in levels]
    sorted_ = np.sort(np.stack(found, 1), 1)
    return Predicted(None, np.stack([np.interp(LEVELS, levels, row) for row in sorted_]))


def tuned_mixture(rows: Rows) -> Mixture:
    """scikit-learn's mixture with components, covariance and floor by 3-fold cross-validation."""
    most = [k for k in (1, 2, 3, 5, 8) if 3 * k <= 2 * len(rows) // 3]
    grid = {"n_components": most, "covariance_type": ["full", "diag"], "reg_covar": [1e-3, 1e-2, 1e-1]}
    folds = KFold(3, shuffle=True, random_state=0)
    found = GridSearchCV(GaussianMixture(random_state=0, max_iter=300), grid, cv=folds).fit(rows).best_estimator_
    return Mixture(*(torch.from_numpy(v) for v in (found.means_, found.covariances_, found.weights_)))


def mixture(x: Rows, y: Rows, new: Rows, truth: Rows) -> Predicted:
    """The joint mixture of scikit-learn, conditioned in closed form."""
    joint = tuned_mixture(np.column_stack([x, y]))
    given = joint.conditional(torch.arange(x.shape[1]), torch.from_numpy(new))
    log_p = given.log_prob(torch.from_numpy(truth)[:, None]).numpy()
    weight, mean = given.log_weights.exp().numpy(), given.means[..., 0].numpy()
    std = np.broadcast_to(np.sqrt(given.variances[..., 0].numpy()), mean.shape)
    low, high = (mean - 9 * std).min(1), (mean + 9 * std).max(1)
    grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 2001)
    share = sum(weight[:, [k]] * stats.norm.cdf((grid - mean[:, [k]]) / std[:, [k]]) for k in range(mean.shape[1]))
    return Predicted(log_p, np.stack([np.interp(LEVELS, a, b) for a, b in zip(share, grid, strict=True)]))


TREEFFUSER = """
import sys, numpy as np
from treeffuser import Treeffuser
f = np.load(sys.argv[1])
model = Treeffuser(seed=0)
model.fit(f["x"], f["y"])
np.save(sys.argv[2], np.asarray(model.sample(f["new"], n_samples=1000, seed=0)).reshape(1000, -1).T)
"""


def treeffuser(python: str) -> Contestant:
    """Treeffuser (Beltran-Velez et al. 2024) in its own environment, with a kernel density of its draws."""

    def predict(x: Rows, y: Rows, new: Rows, truth: Rows) -> Predicted:
        with tempfile.TemporaryDirectory() as folder:
            sent, back = Path(folder) / "sent.npz", Path(folder) / "draws.npy"
            np.savez(sent, x=x, y=y[:, None], new=new)
            subprocess.run([python, "-c", TREEFFUSER, str(sent), str(back)], check=True, capture_output=True)
            draws = np.load(back)
        log_p = [stats.gaussian_kde(row).logpdf(at)[0] for row, at in zip(draws, truth, strict=True)]
        # A draw far from all others makes a density of exactly 0.
        return Predicted(np.maximum(log_p, -50.0), np.quantile(draws, LEVELS, axis=1).T)

    return predict


def truth_of(table: Table) -> Contestant:
    def predict(x: Rows, y: Rows, new: Rows, truth: Rows) -> Predicted:
        known = table.truth(new) if table.truth else None
        assert known is not None
        return Predicted(known.logpdf(truth), np.stack([known.ppf(level) for level in LEVELS], 1))

    return predict


def crps(quantiles: Rows, y: Rows) -> Rows:
    """The continuous ranked probability score from quantiles `[n, 64]`: twice the mean pinball loss."""
    return (2 * ((y[:, None] < quantiles) - LEVELS) * (quantiles - y[:, None])).mean(1)


def splits(table: Table) -> list[tuple[Rows, Rows]]:
    if table.test is not None:
        return [(table.rows, table.test)]
    folds = 10 if len(table.rows) < 50 else FOLDS
    order = KFold(folds, shuffle=True, random_state=0).split(table.rows)
    return [(table.rows[a], table.rows[b]) for a, b in order]


def conditional_cell(table: Table, contestant: Contestant, standardise: bool) -> dict[str, object]:
    """Log p and CRPS of each test row, in the units of the standard deviation of the training targets."""
    nats: list[float] | None = []
    scores: list[float] = []
    began = time.process_time()
    for train, test in splits(table):
        train = np.random.default_rng(0).permutation(train)
        mean, std = (train.mean(0), train.std(0)) if standardise else (np.zeros(1), np.ones(1))
        a, b, unit = (train - mean) / std, (test - mean) / std, train[:, -1].std() / std[-1]
        found = contestant(a[:, :-1], a[:, -1], b[:, :-1], b[:, -1])
        scores += (crps(found.quantiles, b[:, -1]) / unit).tolist()
        nats = None if found.log_p is None or nats is None else nats + (found.log_p + math.log(unit)).tolist()
    return {"nats": nats, "crps": scores, "seconds": time.process_time() - began}


Density = Callable[[Rows, Rows], Rows]


def our_density(rows: Rows, test: Rows) -> Rows:
    return ScoreDensity(random_state=0).fit(rows).score_samples(test)


def mixture_density(rows: Rows, test: Rows) -> Rows:
    return tuned_mixture(rows).log_prob(torch.from_numpy(test)).numpy()


def joint_cell(table: Table, density: Density) -> dict[str, object]:
    """log P(categories) + log p(other columns given them) of each test row, in units of the training rows' spreads."""
    nats: list[float] = []
    began = time.process_time()
    few = np.array([len(np.unique(column)) < FEW for column in table.rows.T]) & (len(table.rows) > 50)
    for train, test in splits(table):
        train = np.random.default_rng(0).permutation(train)
        mean, std = train.mean(0), train.std(0)
        a, b = ((rows - mean) / std for rows in (train, test))
        levels = np.unique(np.concatenate([a, b])[:, few], axis=0)
        for level in levels:
            seen, asked = ((rows[:, few] == level).all(1) for rows in (a, b))
            share = math.log((seen.sum() + 0.5) / (len(a) + 0.5 * len(levels)))
            if asked.any():
                nats += (share + density(a[seen][:, ~few], b[asked][:, ~few])).tolist()
    return {"nats": nats, "seconds": time.process_time() - began}


def shown(values: Rows, digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) / math.sqrt(len(values)):.{digits}f}"


def conditional_lines(name: str, cells: dict[str, dict]) -> list[str]:
    mine = cells.get("ConditionalScoreDensity")
    lines = [
        f"### {name}",
        "",
        "| estimator | log p(y given x), nats a row | ours less this | CRPS | this less ours | s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for key, cell in cells.items():
        nats, scores = (None if cell[k] is None else np.array(cell[k]) for k in ("nats", "crps"))
        pair = ["", ""]
        if mine is not None and cell is not mine:
            pair[0] = "" if nats is None else shown(np.array(mine["nats"]) - nats, 3)
            pair[1] = shown(scores - np.array(mine["crps"]), 4)
        own = "" if nats is None else shown(nats, 3)
        lines.append(f"| {key} | {own} | {pair[0]} | {shown(scores, 4)} | {pair[1]} | {cell['seconds']:.1f} |")
    return [*lines, ""]


def joint_lines(name: str, cells: dict[str, dict]) -> list[str]:
    mine, other = (np.array(cells[key]["nats"]) for key in DENSITIES)
    seconds = " | ".join(f"{cells[key]['seconds']:.1f}" for key in DENSITIES)
    return [f"| {name} | {shown(mine, 2)} | {shown(other, 2)} | {shown(mine - other, 2)} | {seconds} |"]


DENSITIES: dict[str, Density] = {"ScoreDensity": our_density, "GaussianMixture": mixture_density}


def page(cells: dict[tuple[str, str, str], dict]) -> str:
    found: dict[str, dict[str, dict[str, dict]]] = {"conditional": {}, "joint": {}}
    for (question, table, name), cell in cells.items():
        found[question].setdefault(table, {})[name] = cell
    lines = [
        "# Tables: log scores and CRPS of held-out rows",
        "",
        "`python benchmarks/tables.py`, whose first lines say what is measured. ± is a standard error over rows, of",
        "differences row by row. Units are standard deviations of the training rows. s: processor seconds of all",
        "folds, one thread (those of treeffuser are not counted).",
        "",
        "## The density of whole rows",
        "",
        "| table | ScoreDensity, nats a row | GaussianMixture, tuned | difference | s, ours | s, mixture |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for table, by_name in found["joint"].items():
        if len(by_name) == len(DENSITIES):
            lines += joint_lines(table, by_name)
    lines += ["", "## The last column given the others", ""]
    for table, by_name in found["conditional"].items():
        lines += conditional_lines(table, by_name)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treeffuser", help="the Python of an environment that has treeffuser; left out without")
    parser.add_argument("--only", help="a part of the names of cells to run, such as 'joint wine'")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    contestants: dict[str, Contestant] = {
        "ConditionalScoreDensity": ours,
        "conditional Gaussian": conditional_gaussian,
        "quantile gradient boosting": quantile_boosting,
        "GaussianMixture, conditioned": mixture,
    }
    if asked.treeffuser:
        contestants["treeffuser"] = treeffuser(asked.treeffuser)
    stored = RESULTS / "tables.jsonl"
    lines = stored.read_text(encoding="utf-8").splitlines() if stored.exists() else []
    cells = {tuple(cell.pop("cell")): cell for cell in map(json.loads, lines)}
    work: dict[tuple[str, str, str], Callable[[], dict[str, object]]] = {}
    for name, table in joint_tables().items():
        for key, density in DENSITIES.items():
            work["joint", name, key] = lambda table=table, density=density: joint_cell(table, density)
    for name, table in conditional_tables().items():
        known = {"the truth": truth_of(table)} if table.truth else {}
        for key, contestant in {**contestants, **known}.items():
            work["conditional", name, key] = lambda table=table, contestant=contestant, key=key: conditional_cell(
                table, contestant, key != "the truth"
            )
    for cell, run in work.items():
        if cell in cells or (asked.only and asked.only not in " ".join(cell)):
            continue
        cells[cell] = run()
        with stored.open("a", encoding="utf-8") as file:
            rounded = {k: np.round(v, 5).tolist() if isinstance(v, list) else v for k, v in cells[cell].items()}
            file.write(json.dumps({"cell": cell, **rounded}) + "\n")
        print(*cell, f"{cells[cell]['seconds']:.1f} s", flush=True)
    (RESULTS / "tables.md").write_text(page(cells), encoding="utf-8")


if __name__ == "__main__":
    main()
