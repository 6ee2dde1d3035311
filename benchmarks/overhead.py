"""Microseconds and dispatched operations that a sampler adds to a step, the network costing nothing.

    python benchmarks/overhead.py                      # ours and the hand-fused floor
    pip install -e ".[benchmarks]" && python benchmarks/overhead.py --peers

The network returns a tensor made beforehand. A step's cost is the difference between a long run and a
short one over the difference of their steps, so that building tables and schedules is not in it (`set-up` has
it, in milliseconds, for a run of 20 steps). One thread, processor time, the least of repeats
that take turns: what a busy machine disturbs least. The floor is the same formula in a hand-written loop of fused torch
operations, with its coefficients as Python numbers. Operations are counted by a dispatch mode.

Adaptive solvers have a table of their own: a solve, divided by its evaluations, and (with peers) what a step for each
sample costs and gives beside one step for all, on the mixture `modes` of `problems`.
"""

from __future__ import annotations

import argparse
import importlib
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from backdrift.sde import VE, FunctionModel
from backdrift.solvers import Adams, Adaptive, DPMSolverPP2M, Euler, EulerMaruyama, Noise, UniPC
from backdrift.solvers.flows.angle_flow import AngleFlow

SHAPES = {"64x2": (64, 2), "4x3x8x8": (4, 3, 8, 8), "64x3x32x32": (64, 3, 32, 32)}
SHORT, LONG = 20, 140
Make = Callable[[int, Tensor, Tensor], Callable[[], Any]]
"""(steps, x, value) -> a run; what is made before the run is set-up."""


class Idle:
    """A model whose denoiser costs nothing."""

    sde = VE()
    data_std = 0.5

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return self.value


class Count(TorchDispatchMode):
    """Counts dispatched operations."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        return function(*args, **(kwargs or {}))


def of_ours(solver: Callable[[int], Any]) -> Make:
    def make(steps: int, x: Tensor, value: Tensor) -> Callable[[], Any]:
        model, chosen = Idle(value), solver(steps)
        noise = Noise(0, tuple(x.shape)) if chosen.stochastic else None
        return lambda: chosen.solve(model, x, noise)

    return make


def floor_of_euler(steps: int, x: Tensor, value: Tensor) -> Callable[[], Any]:
    def run() -> Tensor:
        y = x
        for _ in range(steps):
            y = torch.lerp(y, value, 0.1)  # (1 - r) x + r D
        return y

    return run


def floor_of_2m(steps: int, x: Tensor, value: Tensor) -> Callable[[], Any]:
    def run() -> Tensor:
        y, before = x, value
        for _ in range(steps):
            y = y * 0.9
            y.add_(value, alpha=0.15).add_(before, alpha=-0.05)
            before = value
        return y

    return run


def floor_of_noise(steps: int, x: Tensor, value: Tensor) -> Callable[[], Any]:
    def run() -> Tensor:
        y = x
        for _ in range(steps):
            y = torch.lerp(y, value, 0.1).add_(torch.randn_like(y), alpha=0.1)
        return y

    return run


OURS: dict[str, tuple[str, Make]] = {
    "Euler": ("Euler", of_ours(lambda n: Euler(steps=n))),
    "DPM-Solver++(2M)": ("2M", of_ours(lambda n: DPMSolverPP2M(steps=n))),
    "Adams 3.5-4": ("2M", of_ours(lambda n: Adams(steps=n, order=3.5, corrector=4))),  # the default of 20 steps
    "UniPC-3": ("2M", of_ours(lambda n: UniPC(steps=n))),
    "Euler-Maruyama": ("noise", of_ours(lambda n: EulerMaruyama(steps=n))),
}
FLOORS: dict[str, Make] = {"Euler": floor_of_euler, "2M": floor_of_2m, "noise": floor_of_noise}


def peers() -> dict[str, tuple[str, Make]]:
    """The same methods elsewhere: name -> (floor it is held against, run)."""
    from peer import SIGMA_MAX
    from peers_k_diffusion import k_diffusion_sampling

    sampling = k_diffusion_sampling()

    def of_k(name: str, **options: Any) -> Make:
        def make(steps: int, x: Tensor, value: Tensor) -> Callable[[], Any]:
            sigmas = sampling.get_sigmas_karras(steps, 0.002, SIGMA_MAX)
            return lambda: getattr(sampling, name)(lambda x, s: value, x, sigmas, disable=True, **options)

        return make

    diffusers = importlib.import_module("diffusers")
    importlib.import_module("diffusers.utils.logging").set_verbosity_error()

    def of_diffusers(name: str, **options: Any) -> Make:
        def make(steps: int, x: Tensor, value: Tensor) -> Callable[[], Any]:
            scheduler = getattr(diffusers, name)(**options)

            def run() -> Tensor:
                scheduler.set_timesteps(steps)
                y = x
                for t in scheduler.timesteps:
                    y = scheduler.step(value, t, y).prev_sample
                return y

            return run

        return make

    azula = importlib.import_module("azula.sample")
    schedule = importlib.import_module("azula.noise").VESchedule(0.002, SIGMA_MAX)
    posterior = importlib.import_module("azula.denoise").DiracPosterior

    def of_azula(name: str, **options: Any) -> Make:
        def make(steps: int, x: Tensor, value: Tensor) -> Callable[[], Any]:
            class Wrapped(torch.nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.schedule = schedule

                def forward(self, x: Tensor, t: Tensor) -> Any:
                    return posterior(value)

            sampler = getattr(azula, name)(Wrapped(), steps=steps, silent=True, **options)
            return lambda: sampler(x)

        return make

    return {
        "k-diffusion euler": ("Euler", of_k("sample_euler")),
        "k-diffusion dpmpp_2m": ("2M", of_k("sample_dpmpp_2m")),
        "k-diffusion dpmpp_2m_sde (Brownian tree)": ("noise", of_k("sample_dpmpp_2m_sde")),
        "k-diffusion euler_ancestral": ("noise", of_k("sample_euler_ancestral")),
        "diffusers DPMSolverMultistep 2": ("2M", of_diffusers("DPMSolverMultistepScheduler", prediction_type="sample")),
        "diffusers UniPC 3": (
            "2M",
            of_diffusers("UniPCMultistepScheduler", solver_order=3, prediction_type="sample"),
        ),
        "diffusers DDPM": ("noise", of_diffusers("DDPMScheduler", prediction_type="sample")),
        "azula DDIM": ("Euler", of_azula("DDIMSampler")),
        "azula xEAB 2": ("2M", of_azula("xEABSampler", order=2)),
        "azula DDPM": ("noise", of_azula("DDPMSampler")),
    }


Solve = Callable[[Tensor, Callable[[Tensor], Tensor]], Any]
"""(x, network) -> a whole adaptive solve."""


def adaptive_solvers(with_peers: bool) -> dict[str, Solve]:
    """Dormand and Prince's pair: ours with a step for each sample, torchdiffeq's with one for all."""

    def ours(x: Tensor, network: Callable[[Tensor], Tensor]) -> Any:
        return Adaptive(denoise=False, data_std=0.5).solve(FunctionModel(lambda x, t: network(x), VE()), x)

    found: dict[str, Solve] = {"Adaptive": ours}
    if with_peers:
        odeint = importlib.import_module("torchdiffeq").odeint

        def by_torchdiffeq(field: Callable[[Tensor, Tensor], Tensor]) -> Solve:
            def solve(x: Tensor, network: Callable[[Tensor], Tensor]) -> Any:
                ends = torch.tensor([math.log(80.0), math.log(0.002)])
                return odeint(lambda u, x: field(x, network(x)), x, ends, method="dopri5", rtol=1e-4, atol=1e-4)

            return solve

        found["torchdiffeq dopri5, dx/dlog(sigma) = x - D"] = by_torchdiffeq(lambda x, d: x - d)
        found["torchdiffeq dopri5, a field for nothing"] = by_torchdiffeq(lambda x, d: d)
    return found


def measure_stage(solve: Solve, shape: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """Microseconds and operations of an adaptive solve, all included, for each call of the network."""
    x, value = 80 * torch.randn(shape), 0.3 * torch.randn(shape)
    calls = 0

    def network(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return value if len(x) == len(value) else value[: len(x)]

    with torch.no_grad(), Count() as count:
        solve(x, network)
    operations, used = count.total / calls, calls
    with torch.no_grad():
        least = min(seconds(lambda: solve(x, network)) for _ in range(repeats))
    return 1e6 * least / used, operations


class Counted:
    """A model that notes how many states it is asked about."""

    def __init__(self, model: Any) -> None:
        self.model, self.sde, self.data_std = model, model.sde, model.data_std
        self.asked: list[int] = []

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        self.asked.append(len(x))
        return self.model.denoise(x, t)


def own_steps(samples: int = 64, tolerance: float = 1e-5, seed: int = 100, sigma: float = 1e-4) -> str:
    """What steps of one's own cost and give: calls and errors on `modes`, in the same coordinates and tolerance."""
    problems, odeint = (importlib.import_module(name) for name in ("problems", "torchdiffeq"))
    model = Counted(problems.modes(seed))
    x = problems.start(model.model, samples, seed + 1)
    exact, _ = problems.exact_flow(model.model, x)
    flow = AngleFlow(model, eps=sigma**2)

    def own() -> Tensor:
        return Adaptive(rtol=tolerance, atol=tolerance, denoise=False, eps=sigma**2).solve(model, x)

    def shared() -> Tensor:
        ends = torch.tensor([flow.last, flow.first], dtype=torch.float64)
        z = x / flow.width(problems.SDE.T)
        z = odeint.odeint(lambda u, z: flow.velocity(z, u), z, ends, method="dopri5", rtol=tolerance, atol=tolerance)
        return flow.width(flow.eps) * z[-1]

    lines = ["| | calls | states evaluated | median error | worst error |", "|---" * 5 + "|"]
    for name, run in {"Adaptive, a step for each sample": own, "torchdiffeq dopri5, one step for all": shared}.items():
        model.asked.clear()
        y = run()
        cost = f"{len(model.asked)} | {sum(model.asked)}"
        error = ((y + model.model.denoise(y, sigma**2)) / 2 - exact).norm(dim=1)
        lines.append(f"| {name} | {cost} | {float(error.median()):.1e} | {float(error.max()):.1e} |")
    return "\n".join(lines)


def seconds(run: Callable[[], Any]) -> float:
    """Processor time of the one thread that everything runs on: what neighbours take is not in it."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def measure(makes: dict[str, Make], shape: tuple[int, ...], repeats: int) -> dict[str, tuple[float, float, float]]:
    """name -> microseconds a step, operations a step, milliseconds of set-up and 20 steps."""
    x, value = torch.randn(shape), torch.randn(shape)
    runs = {name: (make(SHORT, x, value), make(LONG, x, value)) for name, make in makes.items()}
    operations: dict[str, float] = {}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    with torch.no_grad():
        for name, (short, long) in runs.items():
            counts = []
            for run in (short, long):
                with Count() as count:
                    run()
                counts.append(count.total)
            operations[name] = (counts[1] - counts[0]) / (LONG - SHORT)
        for repeat in range(repeats):
            for name, (short, long) in runs.items():
                if repeat >= 2 and min(times[name][1]) > 0.3:
                    continue  # twice will do for what takes so long
                times[name][0].append(seconds(short))
                times[name][1].append(seconds(long))
    result = {}
    for name, (few, many) in times.items():
        step = (min(many) - min(few)) / (LONG - SHORT)
        result[name] = (1e6 * step, operations[name], 1e3 * min(few))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="beside k-diffusion, diffusers and azula")
    parser.add_argument("--repeats", type=int, default=31)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    contenders = {**OURS, **(peers() if given.peers else {})}
    makes = {f"floor: {name}": make for name, make in FLOORS.items()} | {n: m for n, (_, m) in contenders.items()}
    print("| | " + " | ".join(f"{shape} us | ratio | ops" for shape in SHAPES) + " | 20 steps, set-up included, ms |")
    print("|---" * (3 * len(SHAPES) + 2) + "|")
    measured = {label: measure(makes, shape, given.repeats) for label, shape in SHAPES.items()}
    for name in makes:
        cells = []
        for label in SHAPES:
            step, operations, _ = measured[label][name]
            floor = name if name.startswith("floor") else f"floor: {contenders[name][0]}"
            cells.append(f"{step:.1f} | {step / measured[label][floor][0]:.2f} | {operations:.1f}")
        print(f"| {name} | " + " | ".join(cells) + f" | {measured['64x2'][name][2]:.1f} |")

    print(f"\n| | {' | '.join(f'{label} us a stage | ops' for label in SHAPES)} |")
    print("|---" * (2 * len(SHAPES) + 1) + "|")
    for name, solve in adaptive_solvers(given.peers).items():
        cells = [measure_stage(solve, shape, min(given.repeats, 7)) for shape in SHAPES.values()]
        print(f"| {name} | " + " | ".join(f"{us:.1f} | {ops:.1f}" for us, ops in cells) + " |")
    if given.peers:
        print(f"\n{own_steps()}")


if __name__ == "__main__":
    main()
