"""Log-likelihoods on densities that are known: spread of one, the solver's error, seconds of exact divergence.

    python benchmarks/likelihood.py              # results/likelihood_{spread,solver,seconds}.md

Everything is measured on closed-form mixtures, whose denoisers everybody calls as if they were networks (no closed-form
divergence), in float64 and processor time of one thread; with the true p_T as prior, so that only the divergence
and the solver are left to err.

1. **Spread.** One state of the mixture, 32 seeds of the probes. score_sde's way is scipy's RK45 in (x, t) with one
   probe held fixed, at its tolerances of 1e-5; k-diffusion's own `log_likelihood` is called at its default
   tolerances. With a probe held fixed, more evaluations do not help.
2. **Solver.** The error at 64 evaluations with an exact divergence at each, 64 samples, beside RK45 in (x, t) on the
   first 16 of them at once, by tolerance: its evaluations, and its error.
3. **Seconds.** Of exact divergences that put the log-density within 0.02 nats, 16 samples. Peers integrate the flow
   in each of three coordinates with each of their methods and tolerances from 1e-3 to 1e-5, and the fastest within
   0.02 nats is reported; ours likewise over the steps and the number of divergences. That choice is an oracle, for
   everybody. torchdiffeq's trace is that of its CNF example, a gradient for each component; flow_matching's
   `compute_likelihood(exact_divergence=True)` and zuko's `FreeFormJacobianTransform(exact=True)` are called as they
   are.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_k_diffusion import k_diffusion_sampling
from problems import PROBLEMS
from scipy.integrate import RK45, solve_ivp
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VP, GaussianSDE, Model
from backdrift.solvers import log_likelihood
from backdrift.solvers.density.divergence import divergence
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.time_flow import TimeFlow

TARGET = 0.02
"""Nats, on average over samples."""


class Network(Model):
    """A mixture of which nothing is known but its denoiser; counts evaluations."""

    def __init__(self, truth: GaussianMixture) -> None:
        self.truth, self.sde, self.data_std, self.nfe = truth, truth.sde, truth.data_std, 0

    def denoise(self, x: Tensor, t: Any) -> Tensor:
        self.nfe += 1
        return self.truth.denoise(x, t)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_T: stands for the prior."""
        return self.truth.log_prob(x, self.sde.T)


class SigmaFlow:
    """dx^/ds = (x^ - D)/s, x^ = x/alpha, s = sigma/alpha (Karras et al. 2022): EDM's and k-diffusion's coordinates."""

    def __init__(self, model: Network) -> None:
        self.model, self.sde = model, model.sde
        self.first, self.last = (math.exp(-0.5 * float(self.sde.log_snr(t))) for t in (self.sde.eps, self.sde.T))

    def enter(self, x: Tensor) -> tuple[Tensor, float]:
        alpha = float(self.sde.alpha(self.sde.eps))
        return x / alpha, -math.log(alpha)

    def leave(self, z: Tensor) -> tuple[Tensor, float]:
        alpha = float(self.sde.alpha(self.sde.T))
        return z * alpha, -math.log(alpha)

    def velocity(self, z: Tensor, u: Any) -> Tensor:
        s = torch.as_tensor(u, dtype=z.dtype)
        t = self.sde.t_from_log_snr(-2 * s.log()).clamp(self.sde.eps, self.sde.T)
        return (z - self.model.denoise(self.sde.alpha(t) * z, t)) / s


COORDINATES: dict[str, Callable[[Network], Any]] = {
    "x, t": TimeFlow,
    "x/alpha, sigma/alpha": SigmaFlow,
    "ours": AngleFlow,
}


def mixture(seed: int, sde: GaussianSDE) -> GaussianMixture:
    """64-D: five components with full covariances, as in the tests."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 64, 64, generator=g) / 8
    means = torch.randn(5, 64, generator=g)
    return GaussianMixture(means, 0.3 * root @ root.mT + 0.02 * torch.eye(64), sde=sde)


def states(truth: GaussianMixture, n: int, seed: int) -> Tensor:
    """Draws of x_eps."""
    g = torch.Generator().manual_seed(seed)
    x = truth.sample(n, g)
    return truth.sde.perturb(x, truth.sde.eps, torch.randn(x.shape, generator=g))


def finish(flow: Any, z: Tensor, gain: Tensor, entered: float, model: Network) -> Tensor:
    """log p_eps from the path's end and the integral of the divergence."""
    end, left = flow.leave(z)
    return model.log_prob(end) + gain + z[0].numel() * (entered - left)


# --- peers: (field, z, last - first as 1, rtol) -> z at the noise's end, integral of the divergence


def along(flow: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity in the time w from 0 at the data to 1 at the noise."""
    span = flow.last - flow.first

    def field(w: Tensor, z: Tensor) -> Tensor:
        return span * flow.velocity(z, flow.first + span * w)

    return field


def torchdiffeq_peer(flow: Any, z: Tensor, tolerance: float, method: str) -> tuple[Tensor, Tensor]:
    from torchdiffeq import odeint

    field = along(flow)

    def augmented(w: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            v = field(w, y)
            trace = torch.zeros(len(y))
            for i in range(y.shape[1]):
                trace = trace + torch.autograd.grad(v[:, i].sum(), y, retain_graph=True)[0][:, i]
        return v.detach(), trace

    ends = torch.tensor([0.0, 1.0])
    path, gain = odeint(augmented, (z, torch.zeros(len(z))), ends, rtol=tolerance, atol=tolerance, method=method)
    return path[-1], gain[-1]


def flow_matching_peer(flow: Any, z: Tensor, tolerance: float, method: str) -> tuple[Tensor, Tensor]:
    from flow_matching.solver import ODESolver

    field = along(flow)
    solver = ODESolver(velocity_model=lambda x, t: -field(1 - t, x))  # type: ignore[arg-type]
    end, gain = solver.compute_likelihood(
        z.clone(),
        lambda y: torch.zeros(len(y)),
        step_size=None,
        method=method,
        atol=tolerance,
        rtol=tolerance,
        exact_divergence=True,
    )
    return end.detach(), gain.detach()


def zuko_peer(flow: Any, z: Tensor, tolerance: float, method: str) -> tuple[Tensor, Tensor]:
    from zuko.transforms import FreeFormJacobianTransform

    return FreeFormJacobianTransform(along(flow), atol=tolerance, rtol=tolerance).call_and_ladj(z)


PEERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "torchdiffeq, a gradient for each component": (torchdiffeq_peer, ("dopri5", "bosh3")),
    "flow_matching, compute_likelihood": (flow_matching_peer, ("dopri5", "bosh3")),
    "zuko, FreeFormJacobianTransform": (zuko_peer, ("dopri5",)),
}

Run = Callable[[], Tensor]


def peer_runs(model: Network, x: Tensor) -> Iterator[tuple[str, str, Run]]:
    """(library, setting, run) over coordinates, methods and tolerances."""
    for library, (solve, methods) in PEERS.items():
        for name, method, tolerance in itertools.product(COORDINATES, methods, (1e-3, 1e-4, 1e-5)):

            def run(solve: Any = solve, name: str = name, method: str = method, rtol: float = tolerance) -> Tensor:
                flow = COORDINATES[name](model)
                z, entered = flow.enter(x)
                return finish(flow, *solve(flow, z, rtol, method), entered, model)

            yield library, f"{method}, {tolerance:.0e}, coordinates {name}", run


def our_runs(model: Network, x: Tensor) -> Iterator[tuple[str, str, Run]]:
    for steps, count in itertools.product((48, 64, 80), (16, 18, 20, 22, 24, 28)):

        def run(steps: int = steps, count: int = count) -> Tensor:
            settings: dict[str, Any] = {"method": "score_corrected", "steps": steps, "divergences": count}
            return log_likelihood(model, x, probes="exact", prior=model, estimate_error=False, **settings).log_prob

        yield "backdrift", f"score_corrected, {steps} steps, {count} divergences", run


def seconds_table(seeds: list[int], samples: int, repeats: int) -> list[str]:
    """Of each library the fastest setting that is right to `TARGET` on every seed, timed by turns."""
    problems = []
    for seed in seeds:
        truth = mixture(seed, VP())
        x = states(truth, samples, seed)
        problems.append((Network(truth), x, truth.log_prob(x, truth.sde.eps)))
    first: dict[str, list[tuple[float, str, list[Run], float, float]]] = {}
    grouped = zip(*([*our_runs(m, x), *peer_runs(m, x)] for m, x, _ in problems), strict=True)
    for runs in grouped:
        library, setting, _ = runs[0]
        spent, errors, nfe = 0.0, [], 0
        for (_, _, run), (model, _, true) in zip(runs, problems, strict=True):
            model.nfe, began = 0, time.process_time()
            errors.append(float((run() - true).abs().mean()))
            spent += time.process_time() - began
            nfe += model.nfe
            if errors[-1] > TARGET:
                break
        print(f"{library}: {setting}: {spent:.2f} s, {max(errors):.2g} nats", flush=True)
        if max(errors) <= TARGET:
            entry = (spent, setting, [run for _, _, run in runs], max(errors), nfe / len(seeds))
            first.setdefault(library, []).append(entry)
    chosen = {library: min(entries, key=lambda entry: entry[0]) for library, entries in first.items()}
    times: dict[str, list[float]] = {library: [] for library in chosen}
    for _ in range(repeats):
        for library, (_, _, again, _, _) in chosen.items():
            began = time.process_time()
            for run in again:
                run()
            times[library].append((time.process_time() - began) / len(seeds))
    ours = min(times["backdrift"])
    rows = [
        f"| {library} | {setting} | {nfe:.0f} | {error:.1e} | {min(times[library]):.2f} | "
        f"{min(times[library]) / ours:.1f} |"
        for library, (_, setting, _, error, nfe) in chosen.items()
    ]
    head = "| library | setting | evaluations | error, nats | processor seconds | times ours |"
    return [head, "| --- | --- | --- | --- | --- | --- |", *rows]


def rk45(model: Network, x: Tensor, tolerance: float, probe: Tensor | None = None) -> tuple[Tensor, int]:
    """score_sde's way: scipy's RK45 on (x, t) for the whole batch, with a fixed probe or the exact divergence."""
    flow = TimeFlow(model)
    n, shape = len(x), x.shape

    def augmented(t: float, state: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(state[: x.numel()].copy()).reshape(shape)

        def field(y: Tensor) -> Tensor:
            return flow.velocity(y, t)

        if probe is None:
            v, trace = divergence(field, y)
        else:
            v, slope = torch.func.jvp(field, (y,), (probe,))[:2]
            trace = (slope * probe).sum(1)
        return torch.cat([v.flatten(), trace]).numpy()

    start = np.concatenate([x.numpy().ravel(), np.zeros(n)])
    found = solve_ivp(augmented, (flow.first, flow.last), start, method=RK45, rtol=tolerance, atol=tolerance)
    end = torch.from_numpy(found.y[:, -1].copy())
    return model.log_prob(end[: x.numel()].reshape(shape)) + end[x.numel() :], found.nfev


def k_diffusion_log_likelihood(model: Network, x: Tensor) -> tuple[Tensor, int]:
    """k-diffusion's own function, but for the prior."""
    sde, flow = model.sde, SigmaFlow(model)
    z, entered = flow.enter(x)

    def denoiser(y: Tensor, sigma: Tensor) -> Tensor:
        t = sde.t_from_log_snr(-2 * sigma[0].log()).clamp(sde.eps, sde.T)
        return model.denoise(sde.alpha(t) * y, t)

    seen: list[Tensor] = []

    class Prior(torch.distributions.Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            seen.append(value)
            return torch.zeros_like(value)

    usual, torch.distributions.Normal = torch.distributions.Normal, Prior  # type: ignore[misc]
    try:
        gain, info = k_diffusion_sampling().log_likelihood(denoiser, z, flow.first, flow.last)
    finally:
        torch.distributions.Normal = usual  # type: ignore[misc]
    return finish(flow, seen[0], gain, entered, model).detach(), info["fevals"]


def spread_table(problem_seeds: list[int], trials: int) -> list[str]:
    """Standard deviation over probes of one log-density: of every way the median over mixtures."""

    def deviation(values: Tensor) -> float:
        return float(values.std())

    found: dict[str, list[tuple[float, float]]] = {}
    for seed in problem_seeds:
        truth = mixture(seed, VP())
        model, x = Network(truth), states(truth, 1, seed)
        kept = []
        for trial in range(trials):
            g = torch.Generator().manual_seed(trial)
            probe = torch.randint(0, 2, x.shape, generator=g).double() * 2 - 1
            kept.append(rk45(model, x, 1e-5, probe))
        found.setdefault("score_sde's way: RK45 in (x, t), one fixed probe", []).append(
            (deviation(torch.cat([v for v, _ in kept])), statistics.mean(n for _, n in kept))
        )
        kept = []
        for trial in range(trials):
            torch.manual_seed(trial)
            kept.append(k_diffusion_log_likelihood(model, x))
        found.setdefault("k-diffusion's log_likelihood, one fixed probe", []).append(
            (deviation(torch.cat([v for v, _ in kept])), statistics.mean(n for _, n in kept))
        )
        wide = x.expand(trials, -1)
        ours: dict[str, dict[str, Any]] = {
            "ours: rk4, 50 steps, 1 probe": {"method": "rk4", "steps": 50},
            "ours: score_corrected, 199 steps, 1 probe": {"method": "score_corrected", "steps": 199},
            "ours: score_corrected, 64 steps, 3 probes": {"method": "score_corrected", "steps": 64, "probes": 3},
            "ours: score_corrected, 64 steps, 16 probes": {"method": "score_corrected", "steps": 64, "probes": 16},
            "ours: the same, hutch++": {
                "method": "score_corrected",
                "steps": 64,
                "probes": 16,
                "probe_kind": "hutch++",
            },
        }
        for name, settings in ours.items():
            values = log_likelihood(model, wide, prior=model, estimate_error=False, **settings)
            found.setdefault(name, []).append((deviation(values.log_prob), float(values.nfe[0])))
    rows = [
        f"| {name} | {statistics.median(n for _, n in each):.0f} | {statistics.median(s for s, _ in each):.2f} | "
        f"{min(s for s, _ in each):.2f} to {max(s for s, _ in each):.2f} |"
        for name, each in found.items()
    ]
    head = "| way | evaluations | standard deviation, nats | over mixtures |"
    return [head, "| --- | --- | --- | --- |", *rows]


def solver_table(problem_seeds: list[int], samples: int) -> list[str]:
    """Mean error in bits/dim with exact divergence: the mean over seeds, and the worst."""
    makes: dict[str, Callable[[int], GaussianMixture]] = {
        "mixture, 64-D": lambda seed: mixture(seed, VP()),
        "decades, 64-D": lambda seed: PROBLEMS["decades"](seed).under(VP()),
        "modes, 2-D": lambda seed: PROBLEMS["modes"](seed).under(VP()),
    }
    rows = []
    for problem, make in makes.items():
        errors: dict[str, list[float]] = {}
        evaluations: dict[str, list[int]] = {}
        for seed in problem_seeds:
            truth = make(seed)
            x = states(truth, samples, seed)
            true, model = truth.log_prob(x, truth.sde.eps), Network(truth)

            runs: list[tuple[str, Tensor, int]] = []
            for method, steps in (("score_corrected", 63), ("rk4", 16)):
                settings: dict[str, Any] = {"method": method, "steps": steps, "probes": "exact", "prior": model}
                value = log_likelihood(truth, x, **settings, divergences="every", estimate_error=False)
                runs.append((method, value.log_prob, int(value.nfe[0])))
            for tolerance in (1e-3, 1e-4, 1e-5):
                runs.append((f"RK45 in (x, t), {tolerance:.0e}", *rk45(model, x[:16], tolerance)))
            for name, found, nfe in runs:
                bits = (found - true[: len(found)]).abs().mean() / (x[0].numel() * math.log(2))
                errors.setdefault(name, []).append(float(bits))
                evaluations.setdefault(name, []).append(nfe)
        rows += [
            f"| {problem} | {name} | {statistics.mean(evaluations[name]):.0f} | "
            f"{statistics.mean(errors[name]):.1e} | {max(errors[name]):.1e} |"
            for name in errors
        ]
    return [
        "| density | solver | evaluations | bits/dim, mean | worst seed |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["spread", "solver", "seconds"])
    parser.add_argument("--seed", type=int, default=100, help="the first of the mixtures'")
    parser.add_argument("--mixtures", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    seeds = list(range(given.seed, given.seed + given.mixtures))
    sections: dict[str, tuple[str, Callable[[], list[str]]]] = {
        "spread": ("Spread of one log-density, 64-D mixtures", lambda: spread_table(seeds, 32)),
        "solver": ("Error of the solver, exact divergence", lambda: solver_table(seeds, 64)),
        "seconds": (
            f"Seconds of exact divergence within {TARGET} nats, 64-D mixtures, 16 samples",
            lambda: seconds_table(seeds[:2], 16, given.repeats),
        ),
    }
    for name in given.sections:
        title, table = sections[name]
        command = f"`python benchmarks/likelihood.py {name} --seed {given.seed}`, torch {torch.__version__}, one thread"
        path = Path(__file__).parent / "results" / f"likelihood_{name}.md"
        path.write_text("\n".join([f"# {title}", "", f"{command}, float64.", "", *table()]) + "\n")
        print(path.read_text(), flush=True)


if __name__ == "__main__":
    main()
