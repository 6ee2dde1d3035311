"""Calls of the network that adaptive solvers need for a given error, ours beside other libraries'.

    pip install -e ".[benchmarks]" torchode diffrax "jax[cpu]"
    python benchmarks/adaptive.py

Everybody gets the same closed-form denoiser and the same noise at sigma = 80, and solves the probability flow. The
error is the root mean square distance to the exact end at sigma = 0 (`problems.exact_flow`), over the samples of 20
instances that nothing was chosen on, for a component and in units of the data's standard deviation d. Calls are those
of the network with the batch, until the last sample has arrived, on average over the instances. Rejected steps count.
A library with steps for each sample is counted in the same way. Each solver runs at tolerances from 1e-1 to 1e-10, and
the calls at a given error are interpolated between them (log error, calls). diffrax runs with `--libraries diffrax`
only, since jax compiles each solve.

Ours are `Adaptive(rtol=tolerance, atol=tolerance, eps=1e-12)`. Of the peers the best of
all settings counts **at each error by its result there**, which favours them. They end at a sigma of d/100 or
d/1000, and then take the half step (x + D)/2 with one more call, which is more accurate there than what they do by
themselves.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import itertools
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer import SIGMA_MAX
from peers_k_diffusion import k_diffusion_sampling
from problems import PROBLEMS, SDE, exact_flow, start
from torch import Tensor

from backdrift.solvers import Adaptive

TARGETS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ENDS = (1e-2, 1e-3)
MOST_CALLS = 500
"""A solver that takes more calls is not run at smaller tolerances."""


class Counted:
    """The denoiser in units in which d is 1, for one sigma or one for each sample, counting its calls."""

    sde = SDE

    def __init__(self, model: Any) -> None:
        self.model, self.width, self.calls = model, model.data_std, 0
        self.data_std = model.data_std

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.denoise(x * self.width, (torch.as_tensor(sigma, dtype=x.dtype) * self.width).square()) / self.width

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.model.denoise(x, t)


Solve = Callable[[Counted, Tensor, float, float], Tensor]
"""(denoise, x, tolerance, end) -> x at sigma = end, from x at `SIGMA_MAX`, in units in which d is 1."""


class Coordinate:
    """The flow dz/dp in the coordinate p = -log(sigma) with z = x, or p = -atan(sigma) with z = x/sqrt(1 + sigma^2)."""

    def __init__(self, kind: str) -> None:
        self.angle = kind == "angle"

    def of(self, sigma: float) -> float:
        return -math.atan(sigma) if self.angle else -math.log(sigma)

    def scale(self, sigma: float) -> float:
        return math.hypot(sigma, 1.0) if self.angle else 1.0

    def rate(self, denoise: Counted, z: Tensor, p: Tensor) -> Tensor:
        if not self.angle:
            return denoise(z, (-p).exp()) - z
        s = torch.tan(-p)
        root = (1 + s * s).sqrt().reshape(-1, 1)
        return (denoise(z * root, s) - z / root) * root / s.reshape(-1, 1)


def dpm_adaptive(order: int) -> Solve:
    """k-diffusion's DPM-Solver-12 or -23, with its ratio of atol to rtol."""
    sampling = k_diffusion_sampling()

    def solve(denoise: Counted, x: Tensor, tolerance: float, end: float) -> Tensor:
        options = {"order": order, "rtol": tolerance, "atol": 0.156 * tolerance, "disable": True}
        return sampling.sample_dpm_adaptive(lambda x, s: denoise(x, s[0]), x, end, SIGMA_MAX / denoise.width, **options)

    return solve


def of_torchdiffeq(method: str, kind: str) -> Solve:
    odeint, path = importlib.import_module("torchdiffeq").odeint, Coordinate(kind)

    def solve(denoise: Counted, x: Tensor, tolerance: float, end: float) -> Tensor:
        first = SIGMA_MAX / denoise.width
        times = torch.tensor([path.of(first), path.of(end)], dtype=x.dtype)
        options = {"step_t": times[1:]}  # so that it does not step past the end and interpolate

        def rate(p: Tensor, z: Tensor) -> Tensor:
            return path.rate(denoise, z, p)

        z = odeint(rate, x / path.scale(first), times, method=method, rtol=tolerance, atol=tolerance, options=options)
        return z[-1] * path.scale(end)

    return solve


def of_torchode(method: str, kind: str) -> Solve:
    """torchode (Lienen & Günnemann 2022), which has steps for each sample."""
    to, path = importlib.import_module("torchode"), Coordinate(kind)

    def solve(denoise: Counted, x: Tensor, tolerance: float, end: float) -> Tensor:
        first = SIGMA_MAX / denoise.width
        term = to.ODETerm(lambda p, z: path.rate(denoise, z, p))
        control = to.PIDController(tolerance, tolerance, 0.2, 0.5, 0.0, term=term)
        solver = to.AutoDiffAdjoint(getattr(to, method)(term=term), control)
        times = [torch.full((len(x),), path.of(s), dtype=x.dtype) for s in (first, end)]
        problem = to.InitialValueProblem(y0=x / path.scale(first), t_start=times[0], t_end=times[1])
        return solver.solve(problem).ys[:, -1] * path.scale(end)

    return solve


def of_diffrax(method: str, kind: str) -> Solve:
    """diffrax (Kidger 2021), with steps for each sample by `jax.vmap`. The denoiser is called back in torch."""
    jax, diffrax, path = importlib.import_module("jax"), importlib.import_module("diffrax"), Coordinate(kind)
    jax.config.update("jax_enable_x64", True)

    def solve(denoise: Counted, x: Tensor, tolerance: float, end: float) -> Tensor:
        first = SIGMA_MAX / denoise.width

        def called_back(p: Any, z: Any) -> Any:
            states, times = torch.tensor(np.array(z)), torch.tensor(np.array(p))
            flat = states.reshape(-1, states.shape[-1])
            return path.rate(denoise, flat, times.expand(states.shape[:-1]).reshape(-1)).reshape(states.shape).numpy()

        def rate(p: Any, z: Any, args: Any) -> Any:
            shape = jax.ShapeDtypeStruct(z.shape, z.dtype)
            return jax.pure_callback(called_back, shape, p, z, vmap_method="broadcast_all")

        def alone(z: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(rate),
                getattr(diffrax, method)(),
                path.of(first),
                path.of(end),
                None,
                z,
                stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance, pcoeff=0.2, icoeff=0.5),
                max_steps=100_000,
            ).ys[-1]

        ends = jax.vmap(alone)(jax.numpy.asarray(x.numpy() / path.scale(first)))
        return torch.tensor(np.array(ends)) * path.scale(end)

    return solve


METHODS = {"torchdiffeq": ("dopri5", "dopri8"), "torchode": ("Dopri5", "Tsit5"), "diffrax": ("Tsit5", "Dopri8")}

SHORTLIST = (
    "dpm_adaptive, order 3",
    "dopri5 in angle",
    "Dopri5 in angle",
    "Tsit5 in angle",
)
"""The settings that took the fewest calls of their library at some error on two other instances of `modes`, with `--all
--problems modes --seed 1000 --instances 2 --samples 24`."""


def settings(libraries: list[str], every: bool) -> Iterator[tuple[str, str, Solve]]:
    """(library, setting, solver) of the peers: those on the `SHORTLIST`, or every one."""
    makers: dict[str, Callable[[str, str], Solve]] = {
        "torchdiffeq": of_torchdiffeq,
        "torchode": of_torchode,
        "diffrax": of_diffrax,
    }
    for library in libraries:
        found: dict[str, Callable[[], Solve]] = {}
        if library == "k-diffusion":
            found = {f"dpm_adaptive, order {order}": functools.partial(dpm_adaptive, order) for order in (2, 3)}
        else:
            for method, kind in itertools.product(METHODS[library], ("log sigma", "angle")):
                found[f"{method} in {kind}"] = functools.partial(makers[library], method, kind)
        yield from ((library, name, make()) for name, make in found.items() if every or name in SHORTLIST)


@dataclass(frozen=True)
class Instance:
    """A problem of one seed, with samples to start from and where they should end."""

    model: Any
    x: Tensor
    exact: Tensor


def instances(problem: str, seeds: range, n: int) -> list[Instance]:
    made = []
    for seed in seeds:
        model = PROBLEMS[problem](seed)
        x = start(model, n, seed + 1)
        exact, error = exact_flow(model, x, 800)
        print(f"{problem} {seed}: reference good to {float(error.max()) / 15:.1e}", flush=True)
        made.append(Instance(model, x, exact))
    return made


def measured(end_of: Callable[[Counted, Tensor], Tensor], among: list[Instance]) -> tuple[float, float]:
    """The root mean square error over all samples and components in units of d, and the mean number of calls."""
    errors, calls = [], 0
    for instance in among:
        model = Counted(instance.model)
        with torch.no_grad():
            y = end_of(model, instance.x)
        errors.append((y - instance.exact).flatten() / model.width)
        calls += model.calls
    return float(torch.cat(errors).square().mean().sqrt()), calls / len(among)


def curve(solve: Callable[[float], tuple[float, float]]) -> list[tuple[float, float, float]]:
    """(tolerance, error, calls) at falling tolerances, until the error is below all targets or no longer falls."""
    points: list[tuple[float, float, float]] = []
    for k in range(2, 21):
        tolerance = 10 ** (-k / 2)
        try:
            error, calls = solve(tolerance)
        except (AssertionError, RuntimeError, ValueError):
            continue  # the tolerance is too loose or too tight for this solver
        points.append((tolerance, error, calls))
        if error < TARGETS[-1] or calls > MOST_CALLS or (len(points) > 5 and error > 0.9 * points[-6][1]):
            break
    return points


def calls_at(points: list[tuple[float, float, float]], target: float) -> float:
    """The calls at an error, interpolated between two tolerances; infinite if it is not reached."""
    for (_, coarse, few), (_, fine, many) in itertools.pairwise(points):
        if coarse > target >= fine:
            share = math.log(coarse / target) / math.log(coarse / fine)
            return few + share * (many - few)
    return math.inf


def ours(model: Counted, x: Tensor, tolerance: float) -> Tensor:
    return Adaptive(rtol=tolerance, atol=tolerance, eps=1e-12).solve(model, x)


def theirs(solve: Solve, model: Counted, x: Tensor, tolerance: float, end: float) -> Tensor:
    y = solve(model, x / model.width, tolerance, end)
    return (y + model(y, torch.tensor(end, dtype=y.dtype))) / 2 * model.width


def compare(problem: str, seeds: range, n: int, peers: list[tuple[str, str, Solve]]) -> str:
    """The section of one problem, in markdown."""
    among = instances(problem, seeds, n)
    mine = curve(lambda tolerance: measured(lambda model, x: ours(model, x, tolerance), among))
    best: dict[str, list[tuple[float, str]]] = {}
    for (library, setting, solve), end in itertools.product(peers, ENDS):
        points = curve(
            lambda tolerance, solve=solve, end=end: measured(
                lambda model, x: theirs(solve, model, x, tolerance, end), among
            )
        )
        found = [(calls_at(points, target), f"{setting}, ends at d/{1 / end:g}") for target in TARGETS]
        print(f"  {library}, {setting}, {end}: {[round(calls, 1) for calls, _ in found]}", flush=True)
        best[library] = [min(pair) for pair in zip(best.get(library, found), found, strict=True)]
    return section(problem, mine, best, f"{n} samples of each of seeds {seeds[0]} to {seeds[-1]}")


def section(
    problem: str, mine: list[tuple[float, float, float]], best: dict[str, list[tuple[float, str]]], data: str
) -> str:
    own = [calls_at(mine, target) for target in TARGETS]
    least = [min(best[library][k] for library in best) for k in range(len(TARGETS))]
    lines = [f"## {problem}", "", f"Calls of the network at a root mean square error, {data}:", ""]
    lines += ["| | " + " | ".join(f"{target:g}" for target in TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    lines.append("| `Adaptive` | " + " | ".join(f"{calls:.1f}" for calls in own) + " |")
    for library, found in best.items():
        lines.append(f"| {library} | " + " | ".join(f"{calls:.1f}" for calls, _ in found) + " |")
    ratios = (f"**{calls / other:.2f}**" for calls, (other, _) in zip(own, least, strict=True))
    lines.append("| ours divided by the best peer's | " + " | ".join(ratios) + " |")
    lines += ["", "The best peer's setting at each error: " + "; ".join(setting for _, setting in least) + ".", ""]
    lines += [
        "`Adaptive` at each tolerance:",
        "",
        "| tolerance | error | error / tolerance | calls |",
        "|---|---|---|---|",
    ]
    lines += [f"| {tol:.1e} | {error:.2e} | {error / tol:.1f} | {calls:.1f} |" for tol, error, calls in mine]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["modes", "decades"], choices=list(PROBLEMS))
    parser.add_argument("--seed", type=int, default=2000, help="the first seed")
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--samples", type=int, default=16, help="of each instance")
    parser.add_argument("--all", action="store_true", help="every setting, not only those on the shortlist")
    names = ["k-diffusion", "torchdiffeq", "torchode", "diffrax"]
    parser.add_argument("--libraries", nargs="+", default=names[:3], choices=names)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "adaptive.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    peers = list(settings(given.libraries, given.all))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ["torch", *given.libraries])
    text = "# Calls of adaptive solvers at equal error\n\n    python benchmarks/adaptive.py\n\n"
    text += f"{versions}; Python {platform.python_version()}, float64, CPU. How to read it: `benchmarks/adaptive.py`.\n"
    for problem in given.problems:
        seeds = range(given.seed, given.seed + given.instances)
        text += "\n" + compare(problem, seeds, given.samples, peers)
        given.out.write_text(text, encoding="utf-8")  # after each problem, so that an interruption loses little
    print(text)


if __name__ == "__main__":
    main()
