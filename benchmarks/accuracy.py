"""How close solvers come to the exact flow for a number of evaluations, ours beside other libraries'.

    pip install -e ".[benchmarks]"
    python benchmarks/accuracy.py

Everybody gets the same closed-form denoiser, the same noise at sigma = 80 and the same task: the
end point of the probability flow at sigma = 0. The error is the distance to it (`problems.exact_flow`),
median and root mean square over the samples of several instances, one a seed. Of a library every setting in `peers`
runs; the one with the least median is taken **at each number of evaluations and problem, by its result there**: an
oracle, the most that a user of that library could get. Ours come as

- `default`: `Adams()` as it is, one setting for everything;
- `tuned`: `tune(iterations=240)` on each instance's model, from other noise.

The settings run are those of `shortlist.json`: all that came within 25% of their library's best at 5, 8, 12 or 20
evaluations on some problem of seed 0, out of the several hundred in `peers` (`--all` runs every one; torchdiffeq's
always do). They are screened on a part of the samples and the best three of each library run on all of them.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import math
import platform
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peer import Peer
from peers import LIBRARIES, STOCHASTIC
from problems import PROBLEMS, SDE, exact_flow, start
from torch import Tensor

from backdrift.solvers import Adams, Ancestral, EulerMaruyama, Heun, Noise, SASolver, StochasticAdams, TableSolver, tune

BUDGETS = (5, 6, 8, 10, 15, 20, 35, 50, 100)
NOISY_BUDGETS = (10, 20, 50, 100)
DRAWS = {"modes": 4096, "decades": 2048, "digits": 512}
"""Of the stochastic comparison: as many as differences need, or as some minutes pay for."""
INSTANCES = {"modes": 12, "decades": 4, "digits": 3}
"""Of each problem, a seed each: the fewer dimensions, the more one instance differs from another."""
SCREENED = 48
TUNE_UP_TO = 20
TUNE_FOR = 240


def of_table(name: str, setting: str, model: Any, solver: TableSolver) -> Peer:
    """One of our solvers as a contender."""

    def run(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, nfe: int) -> Tensor | None:
        class Counted:
            sde = SDE
            data_std = model.data_std

            def denoise(self, x: Tensor, t: Tensor) -> Tensor:
                return denoise(x, t.sqrt())

        try:
            budgeted = solver.with_budget(nfe, SDE)
        except ValueError:
            return None
        noise = Noise(0, tuple(x.shape), dtype=x.dtype) if solver.stochastic else None
        return budgeted.solve(Counted(), x, noise)

    return Peer(name, setting, run, solver.stochastic)


def noisy(model: Any) -> Iterator[Peer]:
    """Our stochastic solvers."""
    for grid, end, final in (
        ("karras", 0.004, "denoise"),
        ("karras", 0.03, "denoise"),
        ("log_snr", 0.03, "denoise"),
        ("angle", 0.03, "half_step"),
    ):
        options: dict[str, Any] = {"grid": grid, "eps": (end * model.data_std) ** 2, "final": final}
        solvers: dict[str, TableSolver] = {
            "ancestral": Ancestral(**options),
            "Euler-Maruyama": EulerMaruyama(**options),
            "SDE-DPM++ 1": StochasticAdams(order=1, **options),
            "SDE-DPM++ 2M": StochasticAdams(order=2, **options),
            "SDE-DPM++ 3M": StochasticAdams(order=3, **options),
            "lambda 1/2, 3M": StochasticAdams(order=3, stochasticity=0.5, **options),
            "lambda 1/4, 3M": StochasticAdams(order=3, stochasticity=0.25, **options),
            "ER-SDE 3": StochasticAdams(order=3, scale="er", clock="sigma", **options),
            "SA-Solver 3": SASolver(order=3, corrector_order=3, **options),
            "SA-Solver 3, lambda 0.3": SASolver(order=3, corrector_order=3, stochasticity=0.3, **options),
            "EDM churn 20": Heun(churn=20.0, **options),
            "EDM churn 40": Heun(churn=40.0, **options),
        }
        for name, solver in solvers.items():
            yield of_table("ours", f"{name}, {grid}, ends {end} d, {final}", model, solver)


@dataclass(frozen=True)
class Result:
    """What one setting reached: median and root mean square, or distance and its standard error."""

    problem: str
    library: str
    setting: str
    nfe: int
    first: float
    second: float


class Counter:
    """The denoiser in sigma, counting its calls."""

    def __init__(self, model: Any) -> None:
        self.model, self.calls = model, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        # The process ends at 80 sharp. Schedules in float32 begin there but for rounding, and adaptive solvers may try
        # a point beyond it when they choose their first step.
        return self.model.denoise(x, torch.as_tensor(sigma, dtype=x.dtype).square().clamp(max=SDE.T))


def end_of(peer: Peer, model: Any, x: Tensor, nfe: int) -> Tensor | None:
    """Where a contender ends; None if it cannot, or does not stay finite.

    Raises:
        RuntimeError: if it took more evaluations than the budget.
    """
    counter = Counter(model)
    with torch.no_grad():
        y = peer.run(counter, x, nfe)
    # An adaptive peer spends calls on tolerances that it then does not use; it keeps its own account.
    if counter.calls > nfe and not peer.keeps_account:
        raise RuntimeError(f"{peer.library}, {peer.setting}: {counter.calls} evaluations of {nfe}")
    return y if y is not None and bool(y.isfinite().all()) else None


@dataclass(frozen=True)
class Instance:
    """A problem of one seed, with samples to start from and where they should end."""

    model: Any
    x: Tensor
    exact: Tensor

    def distance(self, y: Tensor) -> Tensor:
        return (y - self.exact[: len(y)]).norm(dim=1)


def instances(problem: str, seeds: Iterable[int], n: int) -> list[Instance]:
    """The problem of each seed, with as many samples of each."""
    made = []
    for seed in seeds:
        model = PROBLEMS[problem](seed)
        x = start(model, n, seed + 1)
        exact, error = exact_flow(model, x)
        print(f"{problem} {seed}: data_std {model.data_std:.3f}, reference good to {float(error.median()) / 15:.1e}")
        made.append(Instance(model, x, exact))
    return made


def distances(peers: Iterable[Peer], among: list[Instance], nfe: int, n: int | None = None) -> Tensor | None:
    """How far one setting ends from the exact flow, over the first `n` samples of all instances."""
    found = []
    for peer, instance in zip(peers, among, strict=True):
        y = end_of(peer, instance.model, instance.x[:n], nfe)
        if y is None:
            return None
        found.append(instance.distance(y))
    return torch.cat(found)


def deterministic(
    problem: str, seeds: list[int], n: int, budgets: Iterable[int], libraries: list[str], every: bool
) -> list[Result]:
    """All contenders on one problem; of the peers those on the shortlist, or every setting."""
    shortlist = json.loads(Path(__file__).with_name("shortlist.json").read_text())
    among = instances(problem, seeds, n)
    # One setting for all instances: their lists run side by side, and differ in the data's width only.
    contenders = {
        "default": list(zip(*([of_table("default", "Adams()", i.model, Adams())] for i in among), strict=True))
    }
    for library in libraries:
        settings = zip(*(LIBRARIES[library](i.model.data_std) for i in among), strict=True)
        known = shortlist.get(library, []) if not every else []
        contenders[library] = [peers for peers in settings if not known or peers[0].setting in known]
    results = []
    for nfe in budgets:
        began = time.perf_counter()
        for library, settings in contenders.items():
            screened = []
            for index, peers in enumerate(settings):
                distance = distances(peers, among, nfe, SCREENED // len(among))
                if distance is not None:
                    screened.append((float(distance.median()), index))
            finals = []
            for _, index in sorted(screened)[:3]:
                distance = distances(settings[index], among, nfe)
                if distance is not None:
                    rms = float(distance.square().mean().sqrt())
                    setting = settings[index][0].setting
                    finals.append(Result(problem, library, setting, nfe, float(distance.median()), rms))
            results.append(min(finals, key=lambda result: result.first))
        if nfe <= TUNE_UP_TO:
            fits = [
                tune(i.model, nfe=nfe, shape=tuple(i.model.shape), iterations=TUNE_FOR, seed=s + 2)
                for i, s in zip(among, seeds, strict=True)
            ]
            with torch.no_grad():
                distance = torch.cat(
                    [i.distance(f.solver.solve(i.model, i.x)) for i, f in zip(among, fits, strict=True)]
                )
            rms = float(distance.square().mean().sqrt())
            results.append(Result(problem, "tuned", f"tune(iterations={TUNE_FOR})", nfe, float(distance.median()), rms))
        print(f"  {nfe} evaluations: {time.perf_counter() - began:.0f} s", flush=True)
    return results


class Slices:
    """The sliced 2-Wasserstein distance of `backdrift.metrics` to one set of exact draws, projected and sorted once.

    Args:
        draws: `[m, d]`; sets compared to it have a size that divides m.
    """

    def __init__(self, draws: Tensor, directions: int = 128) -> None:
        generator, d = torch.Generator().manual_seed(0), draws.shape[1]
        blocks = [
            torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=draws.dtype))[0]
            for _ in range(-(-directions // d))
        ]
        self.theta = torch.cat(blocks, 1)[:, :directions]
        self.sorted = (draws @ self.theta).sort(0).values

    def __call__(self, y: Tensor) -> float:
        projected = (y @ self.theta).sort(0).values.repeat_interleave(len(self.sorted) // len(y), 0)
        return float((projected - self.sorted).square().mean().sqrt())


def stochastic(problem: str, seed: int, n: int, budgets: Iterable[int], libraries: list[str]) -> list[Result]:
    """Sliced Wasserstein distance of every stochastic contender to four times as many exact draws.

    All settings are screened with an eighth of the draws, or half of them where evaluations are few; the three nearest
    of each library run with all of them, from other starting points. The floor is the mean over sixteen sets of exact
    draws, and their spread every entry's error.
    """
    model = PROBLEMS[problem](seed)
    generator = torch.Generator().manual_seed(seed + 3)
    draws = model.sample(4 * n, generator)
    sliced = Slices(draws)
    floors = torch.tensor([sliced(model.sample(n, generator)) for _ in range(16)])
    spread = float(floors.std())
    results = [Result(problem, "exact draws", "the noise floor", 0, float(floors.mean()), spread)]
    contenders = list(noisy(model))
    for library in libraries:
        contenders += list(STOCHASTIC[library](model.data_std))
    many = start(model, n, seed + 1)

    def distance(peer: Peer, x: Tensor, nfe: int) -> float:
        torch.manual_seed(seed + len(x))
        y = end_of(peer, model, x, nfe)
        return math.inf if y is None else sliced(y)

    for nfe in budgets:
        began = time.perf_counter()
        few = start(model, n // (2 if nfe <= 10 else 8), seed + 4)
        screened: dict[str, list[tuple[float, int, Peer]]] = defaultdict(list)
        for index, peer in enumerate(contenders):
            screened[peer.library].append((distance(peer, few, nfe), index, peer))
        for library, entries in screened.items():
            finals = [(distance(peer, many, nfe), peer.setting) for _, _, peer in sorted(entries)[:3]]
            results.append(Result(problem, library, min(finals)[1], nfe, min(finals)[0], spread))
        print(f"  {problem}, {nfe} evaluations: {time.perf_counter() - began:.0f} s", flush=True)
    return results


def table(results: list[Result], second: bool = False) -> str:
    """A markdown table, libraries by evaluations, the least in bold."""
    budgets = sorted({r.nfe for r in results if r.nfe})
    lines = ["| | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    values = {(r.library, r.nfe): (r.second if second else r.first) for r in results}
    least = {nfe: min(v for (_, k), v in values.items() if k == nfe) for nfe in budgets}
    for library in dict.fromkeys(r.library for r in results if r.nfe):
        cells = []
        for nfe in budgets:
            value = values.get((library, nfe))
            cell = "" if value is None else f"{value:.3g}"
            cells.append(f"**{cell}**" if value == least[nfe] else cell)
        lines.append(f"| {library} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


OURS = ("default", "tuned")


def advantage(results: list[Result]) -> str:
    """A markdown table of the least error of any other library over ours, by evaluations."""
    budgets = sorted({r.nfe for r in results})
    lines = ["| | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    best = {nfe: min(r.first for r in results if r.nfe == nfe and r.library not in OURS) for nfe in budgets}
    for name in OURS:
        mine = {r.nfe: r.first for r in results if r.library == name}
        cells = [f"{best[nfe] / mine[nfe]:.2f}" if nfe in mine else "" for nfe in budgets]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def above(results: list[Result]) -> str:
    """Which entries of a stochastic comparison are not level with the noise floor, its first row."""
    floor, *rest = results
    worse: dict[str, list[str]] = defaultdict(list)
    for r in rest:
        if r.first > floor.first + 3 * floor.second:
            worse[r.library].append(str(r.nfe))
    return "; ".join(f"{library} at {', '.join(budgets)}" for library, budgets in worse.items()) or "none"


def figure(results: list[Result], path: Path) -> None:
    """Median error against evaluations, a panel for each problem."""
    from matplotlib.figure import Figure

    problems = list(dict.fromkeys(r.problem for r in results))
    fig = Figure(figsize=(4.4 * len(problems), 3.8), layout="constrained")
    for axis, problem in zip(fig.subplots(1, len(problems), squeeze=False)[0], problems, strict=True):
        mine = [r for r in results if r.problem == problem]
        for library in dict.fromkeys(r.library for r in mine):
            points = sorted((r.nfe, r.first) for r in mine if r.library == library)
            own = library in OURS
            axis.loglog(*zip(*points, strict=True), "o-" if own else "s--", lw=2 if own else 1, ms=4, label=library)
        axis.set(title=problem, xlabel="evaluations", ylabel="median distance to the exact flow")
        axis.grid(alpha=0.3, which="both")
    fig.axes[0].legend(fontsize=8)
    fig.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=300, help="of the first instance; 0 to 47 chose the defaults")
    parser.add_argument("--instances", type=int, help=f"of each problem; by default {INSTANCES}")
    parser.add_argument("--samples", type=int, default=48, help="of each instance")
    parser.add_argument("--draws", type=int, help=f"for the stochastic solvers; by default {DRAWS}")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--libraries", nargs="*", choices=sorted({*LIBRARIES, *STOCHASTIC}), help="all")
    parser.add_argument("--nfe", nargs="+", type=int, help=f"by default {BUDGETS}, stochastic {NOISY_BUDGETS}")
    parser.add_argument("--all", action="store_true", help="every setting of every peer")
    parser.add_argument("--stochastic", action="store_true", help="compare the stochastic solvers instead")
    parser.add_argument("--beside", type=Path, help="a csv of an earlier run: its rows for libraries not run now")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    results: list[Result] = []
    peers = STOCHASTIC if given.stochastic else LIBRARIES
    budgets = given.nfe or (NOISY_BUDGETS if given.stochastic else BUDGETS)
    libraries = [library for library in peers if given.libraries is None or library in given.libraries]
    for problem in given.problems:
        if given.stochastic:
            results += stochastic(problem, given.seed, given.draws or DRAWS[problem], budgets, libraries)
        else:
            seeds = list(range(given.seed, given.seed + (given.instances or INSTANCES[problem])))
            results += deterministic(problem, seeds, given.samples, budgets, libraries, given.all)

    if given.beside is not None:
        present = {(r.problem, r.library) for r in results}
        with open(given.beside, newline="") as file:
            rows = [Result(p, lib, s, int(n), float(a), float(b)) for p, lib, s, n, a, b in list(csv.reader(file))[1:]]
        results += [r for r in rows if (r.problem, r.library) not in present]
    problems = [problem for problem in PROBLEMS if any(r.problem == problem for r in results)]
    given.out.mkdir(parents=True, exist_ok=True)
    only = f"_{problems[0]}" if len(problems) == 1 else ""
    stem = given.out / f"{'stochastic' if given.stochastic else 'accuracy'}{only}_{given.seed}"
    with open(f"{stem}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        names = ("distance", "standard_error") if given.stochastic else ("median", "rms")
        writer.writerow(["problem", "library", "setting", "nfe", *names])
        writer.writerows([r.problem, r.library, r.setting, r.nfe, f"{r.first:.6g}", f"{r.second:.6g}"] for r in results)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *libraries))
    text = [
        f"# {'Stochastic solvers' if given.stochastic else 'Solvers'} beside other libraries, from seed {given.seed}",
        f"    python benchmarks/accuracy.py {' '.join(sys.argv[1:])}",
        f"{versions}; Python {platform.python_version()}, float64, CPU. How to read it: `benchmarks/README.md`.",
    ]
    for problem in problems:
        mine = [r for r in results if r.problem == problem]
        if given.stochastic:
            floor, spread = mine[0].first, mine[0].second
            text += [f"## {problem}", "Sliced Wasserstein distance to four times as many exact draws; "]
            text[-1] += f"of exact draws, the floor: {floor:.3g}, with a standard deviation of {spread:.2g}."
            text += [table(mine), f"Above the floor by more than three standard deviations: {above(mine)}."]
        else:
            samples = f"{given.samples} samples of each of {given.instances or INSTANCES[problem]} instances"
            text += [f"## {problem}", f"Median distance to the exact flow, {samples}:", table(mine)]
            text += ["Root mean square of the same settings:", table(mine, second=True)]
            text += ["The best library's median error over ours:", advantage(mine)]
    Path(f"{stem}.md").write_text("\n\n".join(text) + "\n")
    if not given.stochastic:
        figure(results, Path(f"{stem}.png"))
    print(Path(f"{stem}.md").read_text())


if __name__ == "__main__":
    main()
