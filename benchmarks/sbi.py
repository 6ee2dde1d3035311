"""Posteriors from simulations on six tasks of the sbibm benchmark (Lueckmann et al. 2021): C2ST to its reference draws.

    pip download --no-deps sbibm==1.1.0 && unzip sbibm-1.1.0-*.whl -d sbibm
    python -m venv sbi && sbi/bin/pip install sbi==0.27.0
    python benchmarks/sbi.py --reference sbibm/sbibm/tasks --sbi sbi/bin/python

The simulators are our own, in sbi_tasks.py. Observations and reference draws are the csv files that sbibm's package
ships. C2ST is sbibm's: scikit-learn's MLP with two layers of 10 d units, five folds, numbers standardised by the
reference; 1,000 draws against 1,000 of the reference. 0.5 is perfect. `SimulationPosterior` and, in an environment of
their own, NPSE and FMPE of sbi have their defaults and the same simulations. Each cell is added to results/sbi.jsonl
when it is done, and a cell that is there is not run again. Writes results/sbi.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sbi_tasks import Task, tasks
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from backdrift import SimulationPosterior

RESULTS = Path(__file__).parent / "results"
DRAWS = 1000
OURS = "SimulationPosterior"
PEERS = ("NPSE", "FMPE")


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


def simulations(task: Task, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """theta and x, the same for everybody."""
    g = np.random.default_rng((seed, n))
    theta = task.draw(g, n)
    return theta, task.simulate(g, theta)


def ours(task: Task, n: int, seed: int, observed: dict[int, np.ndarray]) -> tuple[list[np.ndarray], dict[str, object]]:
    """Draws of our posterior for each observation, and what is said of the fit."""
    theta, x = simulations(task, n, seed)
    began, used = time.time(), time.process_time()
    posterior = SimulationPosterior(random_state=seed).fit(theta, x, prior=task.prior)
    seconds, cpu = time.time() - began, time.process_time() - used
    draws = [posterior.sample(row, DRAWS, random_state=number) for number, row in observed.items()]
    outside = [int((~posterior.parameters_.inside(torch.from_numpy(one))).sum()) / DRAWS for one in draws]
    told = {"seconds": seconds, "cpu": cpu, "steps": posterior.n_steps_, "gains": posterior.gains_}
    return draws, {"outside": outside, **told}


def peer(
    python: str, name: str, task: Task, n: int, seed: int, observed: dict[int, np.ndarray]
) -> tuple[list[np.ndarray], dict[str, object]]:
    """Draws of sbi's posterior for each observation, and what is said of the fit."""
    theta, x = simulations(task, n, seed)
    if isinstance(task.prior, tuple):
        prior = dict(zip(("lower", "upper"), task.prior, strict=True))
    else:
        covariance = getattr(task.prior, "covariance_matrix", None)
        prior = {
            "mean": task.prior.mean,
            "covariance": task.prior.variance.diag() if covariance is None else covariance,
        }
    script = Path(__file__).resolve().parent / "sbi_peers.py"
    with tempfile.TemporaryDirectory() as folder:
        sent, back = Path(folder) / "sent.npz", Path(folder) / "back.npz"
        np.savez(sent, theta=theta, x=x, observed=np.stack(list(observed.values())), seed=seed, **prior)
        # sbi writes its logs into the working folder.
        command = [str(Path(python).absolute()), "-I", str(script), name, str(sent), str(back)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, env=environment)
        found = dict(np.load(back))
    told = {key: float(found[key]) for key in ("cpu", "cpu_draws")}
    return list(found["draws"].astype(float)), {
        "outside": found["outside"].tolist(),
        **told,
        "version": str(found["version"]),
    }


def shown(values: list[float] | np.ndarray) -> str:
    """The mean over observations and its standard error."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.3f}"


def line(task: str, n: int, by: dict[str, dict]) -> str:
    """One row of the table of C2STs."""
    found = [shown(by[name]["c2st"]) if name in by else "" for name in (OURS, *PEERS)]
    difference = ""
    if set(by) >= {OURS, *PEERS}:
        best = min(PEERS, key=lambda name: np.mean(by[name]["c2st"]))
        difference = shown(np.array(by[OURS]["c2st"]) - np.array(by[best]["c2st"]))
    seconds = [f"{by[name]['cpu']:.0f}" if name in by else "" for name in (OURS, *PEERS)]
    raw = [f"{100 * np.mean(by[name]['outside']):.0f}%" if name in by else "" for name in PEERS]
    return f"| {task.replace('_', ' ')} | {n:,} | " + " | ".join([*found, difference, *raw, *seconds]) + " |"


def page(cells: list[dict]) -> str:
    lines = [
        "# Posteriors from simulations, beside sbi",
        "",
        "`python benchmarks/sbi.py`, whose first lines say what is measured: C2ST of 1,000 draws to sbibm's reference",
        "draws, 0.5 is perfect. NPSE and FMPE are those of sbi 0.27.0. All have their defaults and the same",
        "simulations. There is one fit of one seed in each cell. ± is a standard error over the observations, which",
        "does not hold the spread over fits. A negative difference says that ours is nearer to the reference than the",
        "better of NPSE and FMPE. Outside: the share of raw draws of sbi outside of the prior, which sbi's `sample`",
        "rejects and draws again; none of ours are. Seconds are those of the processor for the fit, on one core.",
        "",
        "| task | simulations | ours | NPSE | FMPE | ours less the better | outside, NPSE | outside, FMPE "
        "| s, ours | s, NPSE | s, FMPE |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    by: dict[tuple[int, str], dict[str, dict]] = {}
    for c in sorted(cells, key=lambda c: c["n"]):
        by.setdefault((c["n"], c["task"]), {})[c["method"]] = c
    lines += [line(task, n, found) for (n, task), found in by.items()]
    lines += ["", "Each observation (1, 2, 3):", "", "| task | simulations | ours | NPSE | FMPE |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for (n, task), found in by.items():
        each = [", ".join(f"{v:.2f}" for v in found[m]["c2st"]) if m in found else "" for m in (OURS, *PEERS)]
        lines.append(f"| {task.replace('_', ' ')} | {n:,} | " + " | ".join(each) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="the folder `tasks` of sbibm's package")
    parser.add_argument("--sbi", help="the Python of an environment that has sbi; left out without")
    parser.add_argument("--simulations", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--tasks", nargs="+", help="names of tasks; all by default")
    parser.add_argument("--observations", type=int, nargs=2, default=(1, 3), help="the first and the last")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "sbi.jsonl")
    asked = parser.parse_args()
    known = tasks(asked.reference)
    cells = [json.loads(text) for text in asked.out.read_text().splitlines()] if asked.out.exists() else []
    done = {(c["task"], c["n"], c["method"]) for c in cells}
    methods = (OURS, *(PEERS if asked.sbi else ()))
    wanted = [(name, n, method) for n in asked.simulations for name in asked.tasks or known for method in methods]
    for name, n, method in wanted:
        if (name, n, method) in done:
            continue
        folders = {
            number: asked.reference / name / "files" / f"num_observation_{number}"
            for number in range(asked.observations[0], asked.observations[1] + 1)
        }
        observed = {number: read(folder, "observation.csv")[0] for number, folder in folders.items()}
        if method == OURS:
            draws, told = ours(known[name], n, asked.seed, observed)
        else:
            draws, told = peer(asked.sbi, method, known[name], n, asked.seed, observed)
        references = [read(folder, "reference_posterior_samples.csv.bz2")[:DRAWS] for folder in folders.values()]
        values = [c2st(*pair) for pair in zip(references, draws, strict=True)]
        cell = {"task": name, "n": n, "seed": asked.seed, "method": method, "c2st": values, **told}
        cells.append(cell)
        with asked.out.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print(cell, flush=True)
    asked.out.with_suffix(".md").write_text(page(cells))


if __name__ == "__main__":
    main()
