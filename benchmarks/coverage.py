"""How often stated intervals hold the truth: every method, process and dimension, with nothing given but the model.

    python benchmarks/coverage.py                      # results/coverage.jsonl and results/coverage.md
    python benchmarks/coverage.py --quick              # 100 trials, two processes, 2 and 16 dimensions
    python benchmarks/coverage.py --processes VP VE    # some of the cells; the others are kept

The data are a mixture of four normal densities with correlated components, whose mean is 0 or 3 standard deviations
from 0. Its denoiser is exact, so that each number has a truth in closed form:

- `data`: log p_eps, for intervals of the density of the data;
- `model`: log p of the samples that start from the model's own prior, log p_eps + log prior - log p_T at the end of the
  flow, for intervals of the density of the model;
- the value of a bound: with an exact score it is log p_eps + E[log prior - log p_T] for `elbo`, and for chains the mean
  of 100 other seeds.

A cell has 1,000 trials: 1,000 points where nothing is random, else 100 points with 10 seeds each, or 20 with 50 for
chains. It tells how many of the nominal 95% are held, and how wide the interval is: half of it on average, divided by
the 95% quantile of the error. Cells are stored as they are done, and a run that was interrupted goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, Brownian, CosineVP, GaussianSDE, OrnsteinUhlenbeck, Prior, Rectified, SubVP
from backdrift.solvers import DDPM, Chain, elbo, encode, log_density, log_likelihood

RESULTS = Path(__file__).parent / "results"
PROCESSES: dict[str, Callable[[], GaussianSDE]] = {
    "VP": VP,
    "VE": VE,
    "Brownian": Brownian,
    "SubVP": SubVP,
    "CosineVP": CosineVP,
    "Rectified": Rectified,
    "OU": OrnsteinUhlenbeck,
}
LIKELIHOODS: dict[str, dict[str, Any]] = {
    "log_likelihood": {},
    "steps=8": {"steps": 8},
    "adaptive": {"method": "adaptive"},
    "exact": {"probes": "exact"},
    "exact, score_corrected": {"probes": "exact", "method": "score_corrected"},
    "exact, adaptive": {"probes": "exact", "method": "adaptive"},
}
BOUNDS = ("elbo", "log_density", "chain of 32 steps", "DDPM of 100 steps")
SEEDS = 100
"""Their mean stands for the expectation of a chain's bound."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table: what was measured, the share that was held, and the width as the module says."""

    method: str
    density: str
    process: str
    dim: int
    mean: float
    trials: int
    held: float
    width: float
    seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        return self.method, self.density, self.process, self.dim, self.mean


def mixture(sde: GaussianSDE, dim: int, mean: float) -> GaussianMixture:
    """The data, with their mean so many standard deviations from 0."""
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(4, dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    means = torch.randn(4, dim, generator=generator, dtype=torch.float64)
    covariances = 0.3 * root @ root.mT + 0.02 * torch.eye(dim).double()
    centred = GaussianMixture(means - means.mean(0), covariances, sde=sde)
    return GaussianMixture(means - means.mean(0) + mean * centred.data_std, covariances, sde=sde)


def states(model: GaussianMixture, n: int) -> Tensor:
    """Draws of x_eps."""
    generator = torch.Generator().manual_seed(1)
    x = model.sample(n, generator)
    return model.sde.perturb(x, model.sde.eps, torch.randn(x.shape, generator=generator, dtype=x.dtype))


def prior(model: GaussianMixture) -> Prior:
    sde = model.sde
    assert isinstance(sde, GaussianSDE)
    return sde.prior_for(model.data_moments)


def model_density(model: GaussianMixture, x: Tensor) -> Tensor:
    latent = encode(model, x, steps=100).latent
    return model.log_prob(x, model.sde.eps) + prior(model).log_prob(latent) - model.log_prob(latent, model.sde.T)


def bound_value(model: GaussianMixture, x: Tensor, draws: int = 64) -> Tensor:
    """log p_eps(x) + E[log prior - log p_T], over x_T given x_eps = x, by antithetic draws."""
    sde = model.sde
    kept = float(sde.alpha(sde.T)) / float(sde.alpha(sde.eps))
    std = math.sqrt(float(sde.sigma(sde.T)) ** 2 - (kept * float(sde.sigma(sde.eps))) ** 2)
    generator, total = torch.Generator().manual_seed(7), torch.zeros(len(x), dtype=x.dtype)
    for _ in range(draws // 2):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        for end in (kept * x + std * noise, kept * x - std * noise):
            total += prior(model).log_prob(end) - model.log_prob(end, sde.T)
    return model.log_prob(x, sde.eps) + total / draws


def measured(value: Tensor, interval: tuple[Tensor, Tensor], true: Tensor) -> dict[str, float]:
    held = (interval[0] <= true) & (true <= interval[1])
    width = 0.5 * float((interval[1] - interval[0]).mean()) / float((value - true).abs().quantile(0.95))
    return {"held": float(held.double().mean()), "width": width, "trials": len(true)}


def likelihood(model: GaussianMixture, settings: dict[str, Any], trials: int) -> dict[str, dict[str, float]]:
    exact = settings.get("probes") == "exact" or (model.means.shape[1] <= 8)
    x = states(model, trials if exact else trials // 10)
    repeats = trials // len(x)
    found = log_likelihood(model, x.repeat(repeats, 1), **settings)
    truths = {"data": model.log_prob(x, model.sde.eps), "model": model_density(model, x)}
    return {
        name: measured(found.log_prob, found.interval(density=name), true.repeat(repeats))  # type: ignore[arg-type]
        for name, true in truths.items()
    }


def bound(model: GaussianMixture, method: str, trials: int) -> dict[str, dict[str, float]]:
    if method in ("elbo", "log_density"):
        x = states(model, trials // 10)
        estimate, true = (elbo, bound_value(model, x)) if method == "elbo" else (log_density, model.log_prob(x))
        found = estimate(model, x.repeat(10, 1))
        return {"bound": measured(found.value, found.interval(), true.repeat(10))}
    if method.startswith("DDPM"):
        chain: Chain = DDPM.linear(100, 1e-4, 0.2)
    else:
        first, last = (float(model.sde.log_snr(t)) for t in (model.sde.eps, model.sde.T))
        times = model.sde.t_from_log_snr(torch.linspace(first, last, 32, dtype=torch.float64))
        times = times.clamp(max=model.sde.T)
        times[0] = max(float(times[0]), 0.01 * float(times[1]))  # VE's eps is 0, where a chain has no step
        chain = Chain(model.sde, times)
    x = model.sample(trials // 50, torch.Generator().manual_seed(0))
    found_bound = chain.elbo(model, x.repeat(50, 1))
    true = chain.elbo(model, x.repeat(SEEDS, 1), seed=1).log_prob.reshape(SEEDS, -1).mean(0).repeat(50)
    return {"bound": measured(found_bound.log_prob, found_bound.interval(), true)}


def run(process: str, dim: int, mean: float, method: str, trials: int) -> list[Cell]:
    model = mixture(PROCESSES[process](), dim, mean)
    start = time.process_time()
    found = likelihood(model, LIKELIHOODS[method], trials) if method in LIKELIHOODS else bound(model, method, trials)
    seconds = round(time.process_time() - start, 1)
    return [
        Cell(method, name, process, dim, mean, int(row["trials"]), row["held"], row["width"], seconds)
        for name, row in found.items()
    ]


def stored(path: Path) -> dict[tuple[Any, ...], Cell]:
    if not path.exists():
        return {}
    cells = [Cell(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {cell.key: cell for cell in cells}


def table(cells: dict[tuple[Any, ...], Cell]) -> str:
    columns = sorted({(cell.dim, cell.mean) for cell in cells.values()})
    head = "".join(f" {dim}-D, mean {mean:g} |" for dim, mean in columns)
    lines = [
        "# Coverage of nominal 95%",
        "",
        "The share of the truth that is held, in %, and the width of the interval: half of it on average, divided by",
        "the 95% quantile of the error (below 1 where wide intervals go with large errors). `benchmarks/coverage.py`",
        "says what is measured. A share of 1,000 trials has a standard error of 0.7%.",
    ]
    for density in ("data", "model", "bound"):
        lines += [
            "",
            f"## {density.capitalize()}",
            "",
            f"| method | process |{head}",
            "| --- | --- |" + " --- |" * len(columns),
        ]
        for method in (*LIKELIHOODS, *BOUNDS):
            for process in PROCESSES:
                row = [cells.get((method, density, process, *column)) for column in columns]
                if any(row):
                    texts = ["" if cell is None else f"{100 * cell.held:.1f} / {cell.width:.1f}" for cell in row]
                    lines.append(f"| {method} | {process} | " + " | ".join(texts) + " |")
    found = list(cells.values())
    low = [cell for cell in found if cell.held < 0.93]
    wide = [cell for cell in found if cell.held > 0.97 and cell.width > 3]
    lines += ["", f"{len(found)} cells: {len(low)} hold less than 93%, {len(wide)} more than 97% with a width above 3."]
    for cell in low + wide:
        where = f"{cell.method}, {cell.density}, {cell.process}, {cell.dim}-D, mean {cell.mean:g}"
        lines.append(f"- {where}: {100 * cell.held:.1f}% / {cell.width:.1f}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 trials of a few cells, printed and not stored")
    parser.add_argument("--processes", nargs="+", choices=PROCESSES, default=list(PROCESSES))
    parser.add_argument("--methods", nargs="+", choices=[*LIKELIHOODS, *BOUNDS], default=[*LIKELIHOODS, *BOUNDS])
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "coverage.jsonl"
    cells = {} if given.quick else stored(path)
    processes, dims, trials = (
        (["VP", "Rectified"], (2, 16), 100) if given.quick else (given.processes, (2, 16, 64), 1000)
    )
    for dim in dims:
        for process in processes:
            for mean in (0.0, 3.0):
                for method in given.methods:
                    if (method == "DDPM of 100 steps" and process != "VP") or any(
                        key[0] == method and key[2:] == (process, dim, mean) for key in cells
                    ):
                        continue
                    for cell in run(process, dim, mean, method, trials):
                        cells[cell.key] = cell
                        print(f"{cell.key}: {100 * cell.held:.1f}% / {cell.width:.2f} in {cell.seconds} s", flush=True)
                        if not given.quick:
                            with path.open("a", encoding="utf-8") as file:
                                file.write(json.dumps(asdict(cell)) + "\n")
    if given.quick:
        print(table(cells))
    else:
        (RESULTS / "coverage.md").write_text(table(stored(path)), encoding="utf-8")


if __name__ == "__main__":
    main()
