"""The samplers of other libraries behind one signature, each with every setting that it ships.

A peer is asked for x_0 by `run(denoise, x, nfe)`: `denoise(x, sigma)` is D for x = x_0 + sigma eps, x is at
sigma = `SIGMA_MAX`, and at most `nfe` evaluations may be made. Grids are those that the libraries
offer; sigma is in units of the data, whose standard deviation is given to those who ask for it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SIGMA_MAX = 80.0
Denoise = Callable[[Tensor, Tensor], Tensor]
Run = Callable[[Denoise, Tensor, int], Tensor | None]


@dataclass(frozen=True)
class Peer:
    """One sampler of a library with one setting.

    Args:
        library: the package's name.
        setting: the sampler and its setting, in words.
        run: (denoise, x, nfe) -> x_0; None if the budget does not pay for a step.
        stochastic: whether it draws noise.
        keeps_account: whether it keeps to the budget by an account of its own, rather than by making no more calls.
    """

    library: str
    setting: str
    run: Run
    stochastic: bool = False
    keeps_account: bool = False


def k_diffusion_sampling() -> types.ModuleType:
    """`k_diffusion.sampling` alone: the package's own init imports training code with many requirements."""
    if "k_diffusion.sampling" not in sys.modules:
        spec = importlib.machinery.PathFinder.find_spec("k_diffusion")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("k_diffusion")
        package = types.ModuleType("k_diffusion")
        package.__path__ = list(spec.submodule_search_locations)
        utils = types.ModuleType("k_diffusion.utils")
        utils.append_dims = lambda x, ndim: x[(...,) + (None,) * (ndim - x.ndim)]  # type: ignore[attr-defined]
        sys.modules["k_diffusion"], sys.modules["k_diffusion.utils"] = package, utils
        package.utils = utils  # type: ignore[attr-defined]
    return importlib.import_module("k_diffusion.sampling")


def k_diffusion(data_std: float) -> Iterator[Peer]:
    """k-diffusion (Crowson 2022): Karras, exponential and polyexponential sigmas, all samplers without noise."""
    sampling = k_diffusion_sampling()
    grids: dict[str, Callable[..., Tensor]] = {
        f"karras {rho}": lambda n, low, rho=rho: sampling.get_sigmas_karras(n, low, SIGMA_MAX, rho)
        for rho in (3, 5, 7, 10)
    }
    grids["exponential"] = lambda n, low: sampling.get_sigmas_exponential(n, low, SIGMA_MAX)
    for rho in (0.7, 1.3):
        grids[f"polyexponential {rho}"] = lambda n, low, rho=rho: sampling.get_sigmas_polyexponential(
            n, low, SIGMA_MAX, rho
        )
    samplers: dict[str, tuple[Callable[[int], int], dict[str, Any]]] = {
        "euler": (lambda nfe: nfe, {}),
        "heun": (lambda nfe: (nfe + 1) // 2, {}),
        "dpm_2": (lambda nfe: (nfe + 1) // 2, {}),
        "lms": (lambda nfe: nfe, {"order": 4}),
        "lms 3": (lambda nfe: nfe, {"order": 3}),
        "lms 2": (lambda nfe: nfe, {"order": 2}),
        "dpmpp_2m": (lambda nfe: nfe, {}),
        "dpmpp_2s_ancestral": (lambda nfe: (nfe + 1) // 2, {"eta": 0.0}),
        "dpmpp_2m_sde": (lambda nfe: nfe, {"eta": 0.0}),
        "dpmpp_2m_sde heun": (lambda nfe: nfe, {"eta": 0.0, "solver_type": "heun"}),
        "dpmpp_3m_sde": (lambda nfe: nfe, {"eta": 0.0}),
    }

    def run(name: str, grid: Any, low: float, steps: Any, options: dict[str, Any]) -> Run:
        sampler = getattr(sampling, "sample_" + name.split()[0])

        def sample(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
            n = steps(nfe)
            if n < 2:
                return None
            # Its grids are float32: their first sigma is the 80 of x to rounding, and is set to it.
            sigmas = grid(n, low).to(x.dtype)
            sigmas[0] = SIGMA_MAX
            extra = {} if "sde" not in name else {"noise_sampler": lambda *_: torch.zeros_like(x)}
            return sampler(lambda x, s: denoise(x, s[0]), x, sigmas, disable=True, **options, **extra)

        return sample

    for (name, (steps, options)), grid, low in itertools.product(samplers.items(), grids, (0.002, 0.01, 0.03)):
        yield Peer("k-diffusion", f"{name}, {grid}, sigma_min {low}", run(name, grids[grid], low, steps, options))

    def fast(low: float) -> Run:
        # It ends at sigma_min without a denoise step.
        return lambda denoise, x, nfe: sampling.sample_dpm_fast(
            lambda x, s: denoise(x, s[0]), x, low, SIGMA_MAX, nfe, disable=True
        )

    for low in (0.002, 0.01, 0.03):
        yield Peer("k-diffusion", f"dpm_fast, sigma_min {low}", fast(low))


def diffusers(data_std: float) -> Iterator[Peer]:
    """diffusers (von Platen et al. 2022): its multistep and single-step schedulers, on its Karras and exponential
    sigmas. Its Heun, KDPM2, Euler and LMS schedulers are k-diffusion's samplers and are run there.
    """
    logging = importlib.import_module("diffusers.utils.logging")
    logging.set_verbosity_error()
    library = importlib.import_module("diffusers")
    numpy = importlib.import_module("numpy")

    def sigma_grid(kind: str, n: int, low: float) -> Tensor:
        if kind == "exponential":
            return torch.linspace(math.log(SIGMA_MAX), math.log(low), n, dtype=torch.float64).exp()
        rho = float(kind.split()[1])
        return torch.linspace(SIGMA_MAX ** (1 / rho), low ** (1 / rho), n, dtype=torch.float64) ** rho

    def run(name: str, kind: str, low: float, options: dict[str, Any]) -> Run:
        def sample(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
            if nfe < 2:
                return None
            edm = name.startswith("EDM")
            if edm:
                scheduler = getattr(library, name)(sigma_min=low, sigma_max=SIGMA_MAX, sigma_data=data_std, **options)
                scheduler.set_timesteps(nfe)
            else:
                # A training schedule whose sigmas reach from low to 80.
                train = sigma_grid("exponential", 1000, low).flip(0).numpy()
                kept = 1 / (1 + train**2)
                betas = 1 - kept / numpy.concatenate([[1.0], kept[:-1]])
                scheduler = getattr(library, name)(
                    trained_betas=betas, prediction_type="sample", use_karras_sigmas=True, **options
                )
                scheduler.set_timesteps(nfe)
            last = scheduler.sigmas[-1:].double()
            # The same grid as it makes, in float64 and from 80 sharp.
            scheduler.sigmas = torch.cat([sigma_grid(kind, nfe, low), low * (last > 0)])
            scheduler.timesteps = torch.arange(nfe, 0, -1)
            scheduler.num_inference_steps = nfe
            x = x if edm else x / math.hypot(1, SIGMA_MAX)
            for k, t in enumerate(scheduler.timesteps):
                sigma = scheduler.sigmas[k]
                scale = 1.0 if edm else (1 + sigma**2).sqrt()
                d = denoise(x * scale, sigma)
                if edm:
                    total = sigma**2 + data_std**2
                    d = (d - data_std**2 / total * x) * total.sqrt() / (sigma * data_std)
                x = scheduler.step(d, t, x).prev_sample.to(d.dtype)
            return x

        return sample

    kinds = ("karras 7", "exponential")
    lows = (0.002, 0.01, 0.03)
    booleans = (True, False)
    for order, kind, low, last, lower in itertools.product((2, 3), ("karras 5", *kinds), lows, booleans, booleans):
        for solver_type in ("midpoint", "heun") if order == 2 else ("midpoint",):
            options: dict[str, Any] = {"solver_order": order, "solver_type": solver_type, "lower_order_final": lower}
            options["euler_at_final"] = last
            setting = f"EDM DPM++ {order}M {solver_type}, {kind}, sigma_min {low}"
            setting += ", euler_at_final" * last + ", lower_order_final" * lower
            yield Peer("diffusers", setting, run("EDMDPMSolverMultistepScheduler", kind, low, options))
    for order, kind, low, bh, predict_x0, lower in itertools.product(
        (2, 3), kinds, lows, ("bh1", "bh2"), booleans, booleans
    ):
        options = {"solver_order": order, "solver_type": bh, "predict_x0": predict_x0, "lower_order_final": lower}
        setting = f"UniPC {order} {bh}, {kind}, sigma_min {low}" + ", predict_x0" * predict_x0
        for final in ("zero", "sigma_min"):
            if final == "zero" and not (predict_x0 and lower):
                continue
            yield Peer(
                "diffusers",
                f"{setting}{', lower_order_final' * lower}, final {final}",
                run("UniPCMultistepScheduler", kind, low, {**options, "final_sigmas_type": final}),
            )
    for order, kind, low in itertools.product((2, 3), kinds, lows):
        for name, short in (
            ("DEISMultistepScheduler", "DEIS"),
            ("DPMSolverMultistepScheduler", "DPM-Solver M"),
            ("DPMSolverSinglestepScheduler", "DPM++ single step"),
        ):
            options = {"solver_order": order}
            if short == "DPM-Solver M":
                options |= {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
            yield Peer("diffusers", f"{short} {order}, {kind}, sigma_min {low}", run(name, kind, low, options))


def azula_run(name: str, schedule_name: str, low: float, unit: float, options: dict[str, Any]) -> Run:
    """An azula sampler on one of its schedules, sigma in units of `unit`."""
    sample = importlib.import_module("azula.sample")
    noise = importlib.import_module("azula.noise")
    posterior = importlib.import_module("azula.denoise").DiracPosterior

    def go(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
        high = SIGMA_MAX / unit
        if schedule_name == "VE":
            schedule = noise.VESchedule(low, high)
        else:
            small = 1 / high if schedule_name == "Rectified" else 1 / math.sqrt(1 + high**2)
            schedule = getattr(noise, schedule_name + "Schedule")(alpha_min=small, sigma_min=low)

        class Wrapped(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.schedule = schedule

            def forward(self, x: Tensor, t: Tensor) -> Any:
                alpha, sigma = schedule(t)
                return posterior(denoise(x / alpha * unit, sigma / alpha * unit) / unit)

        steps = nfe // 2 if name == "Heun" else nfe
        if steps < 1:
            return None
        sampler = getattr(sample, name + "Sampler")(Wrapped(), steps=steps, silent=True, dtype=x.dtype, **options)
        alpha, sigma = schedule(torch.ones((), dtype=x.dtype))
        # Its sigma/alpha at t = 1 is 80 but for a relative 1e-8; the state is meant at 80.
        x = sampler(x / unit * alpha * (sigma / alpha / high))
        return x * unit / schedule(torch.zeros((), dtype=x.dtype))[0]

    return go


def azula(data_std: float) -> Iterator[Peer]:
    """azula (Rozet 2024): Heun and its Adams-Bashforth family, on each of its schedules, with the data as they
    are or divided by their standard deviation. It ends at sigma_min, small here, without a denoise step.
    """
    samplers: list[tuple[str, int, dict[str, Any]]] = [("Heun", 2, {})] + [
        (name, order, {"order": order})
        for name, order in itertools.product(("zAB", "vAB", "zEAB", "xEAB", "REAB"), (2, 3, 4))
    ]
    for (name, order, options), schedule, low, unit in itertools.product(
        samplers, ("VE", "VP", "Cosine", "Rectified"), (1e-3, 1e-2), (1.0, data_std)
    ):
        setting = f"{name} {order}, {schedule}, sigma_min {low}" + ", standardised" * (unit != 1)
        yield Peer("azula", setting, azula_run(name, schedule, low, unit, options))


class Spent(Exception):
    """An adaptive solver asked for more evaluations than its budget."""


def adaptive(solve: Callable[[Denoise, Tensor, float], Tensor], ends: float) -> Run:
    """The finest tolerance of a ladder that a budget pays for."""

    def run(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
        best = None
        for tolerance in 10.0 ** torch.linspace(1, -5, 19, dtype=torch.float64):
            used = 0

            def counted(x: Tensor, sigma: Tensor) -> Tensor:
                nonlocal used
                used += 1
                if used > nfe - 1:  # one is kept for the denoise step at the end
                    raise Spent
                return denoise(x, sigma)

            try:
                best = solve(counted, x, float(tolerance))
            except Spent:
                break
            except AssertionError:  # underflow in dt
                continue
        return None if best is None else denoise(best, torch.tensor(ends, dtype=x.dtype))

    return run


FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
ADAPTIVE = ("adaptive_heun", "bosh3", "dopri5")


def torchdiffeq(data_std: float) -> Iterator[Peer]:
    """torchdiffeq (Chen 2018): fixed and adaptive methods on the flow in sigma, log(sigma) and the angle
    atan(sigma/data_std) of the variance-preserving state, with a denoise step at the end.
    """
    odeint = importlib.import_module("torchdiffeq").odeint

    def coordinates(
        kind: str,
    ) -> tuple[Callable[[float], float], Callable[[Denoise], Callable[[Tensor, Tensor], Tensor]]]:
        if kind == "sigma":
            return lambda s: s, lambda denoise: lambda t, x: (x - denoise(x, t)) / t
        if kind == "log sigma":
            return math.log, lambda denoise: lambda t, x: x - denoise(x, t.exp())

        def field(denoise: Denoise) -> Callable[[Tensor, Tensor], Tensor]:
            def angle(t: Tensor, z: Tensor) -> Tensor:
                s = data_std * torch.tan(t)
                root = (s**2 + data_std**2).sqrt()
                return (z * data_std**2 / root - denoise(z * root, s)) * root / (s * data_std)

            return angle

        return lambda s: math.atan(s / data_std), field

    def scale(kind: str, sigma: float) -> float:
        return math.hypot(sigma, data_std) if kind == "angle" else 1.0

    def at_fixed(method: str, kind: str, low: float, rho: float) -> Run:
        time, field = coordinates(kind)

        def run(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
            steps = (nfe - 1) // FIXED[method]
            if steps < 1:
                return None
            if rho:
                sigmas = torch.linspace(SIGMA_MAX ** (1 / rho), low ** (1 / rho), steps + 1, dtype=x.dtype) ** rho
                times = torch.tensor([time(float(s)) for s in sigmas], dtype=x.dtype)
            else:
                times = torch.linspace(time(SIGMA_MAX), time(low), steps + 1, dtype=x.dtype)
            x = odeint(field(denoise), x / scale(kind, SIGMA_MAX), times, method=method)[-1] * scale(kind, low)
            return denoise(x, torch.tensor(low, dtype=x.dtype))

        return run

    def at_tolerance(method: str, kind: str, low: float) -> Run:
        time, field = coordinates(kind)

        def solve(denoise: Denoise, x: Tensor, tolerance: float) -> Tensor:
            times = torch.tensor([time(SIGMA_MAX), time(low)], dtype=x.dtype)
            start = x / scale(kind, SIGMA_MAX)
            return odeint(field(denoise), start, times, method=method, rtol=tolerance, atol=tolerance)[-1] * scale(
                kind, low
            )

        return adaptive(solve, low)

    for method, kind, low, rho in itertools.product(FIXED, ("sigma", "log sigma", "angle"), (0.002, 0.02), (0, 7)):
        grid = "Karras 7" if rho else "even"
        yield Peer("torchdiffeq", f"{method} in {kind}, {grid}, ends {low}", at_fixed(method, kind, low, rho))
    for method, kind, low in itertools.product(ADAPTIVE, ("log sigma", "angle"), (0.002, 0.02)):
        yield Peer(
            "torchdiffeq", f"{method} in {kind}, ends {low}", at_tolerance(method, kind, low), keeps_account=True
        )


def flow_matching(data_std: float) -> Iterator[Peer]:
    """flow_matching (Lipman et al. 2024): its ODESolver on the straight path x_t = t x_0 + (1 - t) eps, from the t at
    which (1 - t)/t is 80, even steps, the data as they are or standardised.
    """
    solver = importlib.import_module("flow_matching.solver").ODESolver

    def run(method: str, low: float, unit: float, finish: bool) -> Run:
        def go(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
            steps = (nfe - finish) // FIXED[method]
            if steps < 1:
                return None

            def velocity(x: Tensor, t: Tensor) -> Tensor:
                return (denoise(x / t * unit, (1 - t) / t * unit) / unit - x) / (1 - t)

            first = 1 / (1 + SIGMA_MAX / unit)
            last = 1 / (1 + low / unit)
            grid = torch.linspace(first, last, steps + 1, dtype=x.dtype)
            x = solver(velocity).sample(
                x_init=x / unit * first, step_size=None, method=method, time_grid=grid
            )  # a step for each interval of the grid
            x = x / last * unit
            return denoise(x, torch.tensor(low, dtype=x.dtype)) if finish else x

        return go

    for method, low, unit, finish in itertools.product(FIXED, (1e-4, 0.01, 0.03), (1.0, data_std), (True, False)):
        setting = f"{method}, ends {low}" + ", standardised" * (unit != 1) + ", denoise" * finish
        yield Peer("flow_matching", setting, run(method, low, unit, finish))


def k_diffusion_noisy(data_std: float) -> Iterator[Peer]:
    """k-diffusion's stochastic samplers, on its Karras and exponential sigmas, with its default noise samplers."""
    sampling = k_diffusion_sampling()
    samplers: dict[str, tuple[Callable[[int], int], dict[str, Any]]] = {
        "euler_ancestral": (lambda nfe: nfe, {}),
        "dpm_2_ancestral": (lambda nfe: (nfe + 1) // 2, {}),
        "dpmpp_2s_ancestral": (lambda nfe: (nfe + 1) // 2, {}),
        "dpmpp_sde": (lambda nfe: (nfe + 1) // 2, {}),
        "dpmpp_2m_sde": (lambda nfe: nfe, {}),
        "dpmpp_2m_sde heun": (lambda nfe: nfe, {"solver_type": "heun"}),
        "dpmpp_3m_sde": (lambda nfe: nfe, {}),
        "heun churn 20": (lambda nfe: (nfe + 1) // 2, {"s_churn": 20.0}),
    }

    def run(name: str, exponential: bool, low: float) -> Run:
        sampler, (steps, options) = getattr(sampling, "sample_" + name.split()[0]), samplers[name]
        grid = sampling.get_sigmas_exponential if exponential else sampling.get_sigmas_karras
        return lambda denoise, x, nfe: sampler(
            lambda x, s: denoise(x, s[0]), x, grid(steps(nfe), low, SIGMA_MAX).to(x.dtype), disable=True, **options
        )

    for name, exponential, low in itertools.product(samplers, (False, True), (0.002, 0.01)):
        setting = f"{name}, {'exponential' if exponential else 'karras 7'}, sigma_min {low}"
        yield Peer("k-diffusion", setting, run(name, exponential, low), stochastic=True)


def azula_noisy(data_std: float) -> Iterator[Peer]:
    """azula's DDPM and Ito samplers on each of its schedules."""
    for name, options in (("DDPM", {}), ("Ito", {"eta": 1.0}), ("Ito", {"eta": 0.5}), ("DDIM", {"eta": 0.5})):
        for schedule, low, unit in itertools.product(("VE", "VP", "Cosine"), (1e-3, 1e-2), (1.0, data_std)):
            setting = f"{name} {options}, {schedule}, sigma_min {low}" + ", standardised" * (unit != 1)
            yield Peer("azula", setting, azula_run(name, schedule, low, unit, options), stochastic=True)


def torchsde_noisy(data_std: float) -> Iterator[Peer]:
    """torchsde (Li et al. 2020): the reverse SDE in u = log(80/sigma), dx = 2 (D - x) du + sqrt(2) sigma dB, for which
    even steps are the exponential grid, with its BrownianInterval told the step, and a denoise step at the end. The
    call by which sdeint learns shapes is not counted; reversible_heun does not stay finite here, and milstein is euler.
    """
    library = importlib.import_module("torchsde")
    evaluations = {"euler": 1, "heun": 2, "midpoint": 2, "srk": 10}

    def run(method: str, low: float) -> Run:
        def sample(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
            steps = (nfe - 1) // evaluations[method]
            if steps < 1:
                return None

            rate = math.log(SIGMA_MAX / low) / steps  # times are whole numbers, which steps of 1 meet exactly

            class Reverse(torch.nn.Module):
                noise_type = "diagonal"
                sde_type = "ito" if method in ("euler", "srk") else "stratonovich"

                def f(self, u: Tensor, x: Tensor) -> Tensor:
                    return 2 * rate * (denoise(x, SIGMA_MAX * torch.exp(-rate * u)) - x)

                def g(self, u: Tensor, x: Tensor) -> Tensor:
                    return torch.full_like(x, math.sqrt(2 * rate) * SIGMA_MAX * math.exp(-rate * float(u)))

            area = "space-time" if method == "srk" else "none"
            brownian = library.BrownianInterval(
                0.0, float(steps), size=x.shape, dtype=x.dtype, dt=1.0, levy_area_approximation=area
            )
            times = torch.tensor([0.0, float(steps)], dtype=x.dtype)
            y = library.sdeint(Reverse(), x, times, bm=brownian, method=method, dt=1.0)[-1]
            return denoise(y, torch.tensor(low, dtype=x.dtype))

        return sample

    for method, low in itertools.product(evaluations, (0.002, 0.01, 0.03)):
        yield Peer("torchsde", f"{method}, ends {low}", run(method, low), stochastic=True, keeps_account=True)


LIBRARIES: dict[str, Callable[[float], Iterator[Peer]]] = {
    "k-diffusion": k_diffusion,
    "diffusers": diffusers,
    "azula": azula,
    "torchdiffeq": torchdiffeq,
    "flow_matching": flow_matching,
}

STOCHASTIC: dict[str, Callable[[float], Iterator[Peer]]] = {
    "k-diffusion": k_diffusion_noisy,
    "azula": azula_noisy,
    "torchsde": torchsde_noisy,
}
