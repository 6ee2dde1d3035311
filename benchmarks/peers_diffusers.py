"""The schedulers of diffusers."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from peer import SIGMA_MAX, Denoise, Peer, Run
from torch import Tensor

KINDS = ("karras 7", "exponential")
LOWS = (0.002, 0.01, 0.03)
BOOLEANS = (True, False)


def sigma_grid(kind: str, n: int, low: float) -> Tensor:
    """`n` sigmas from 80 to `low`, even in their logarithm, or in their power 1/rho for "karras rho"."""
    if kind == "exponential":
        return torch.linspace(math.log(SIGMA_MAX), math.log(low), n, dtype=torch.float64).exp()
    rho = float(kind.split()[1])
    return torch.linspace(SIGMA_MAX ** (1 / rho), low ** (1 / rho), n, dtype=torch.float64) ** rho


def scheduler_on(kind: str, n: int, low: float, name: str, data_std: float, options: dict[str, Any]) -> Any:
    """A scheduler of `n` steps, on the same grid as it makes, but in float64 and from 80 sharp."""
    library, numpy = importlib.import_module("diffusers"), importlib.import_module("numpy")
    if name.startswith("EDM"):
        scheduler = getattr(library, name)(sigma_min=low, sigma_max=SIGMA_MAX, sigma_data=data_std, **options)
    else:
        # A training schedule whose sigmas reach from low to 80.
        train = sigma_grid("exponential", 1000, low).flip(0).numpy()
        kept = 1 / (1 + train**2)
        betas = 1 - kept / numpy.concatenate([[1.0], kept[:-1]])
        scheduler = getattr(library, name)(
            trained_betas=betas, prediction_type="sample", use_karras_sigmas=True, **options
        )
    scheduler.set_timesteps(n)
    last = scheduler.sigmas[-1:].double()
    scheduler.sigmas = torch.cat([sigma_grid(kind, n, low), low * (last > 0)])
    scheduler.timesteps = torch.arange(n, 0, -1)
    scheduler.num_inference_steps = n
    return scheduler


def run(name: str, kind: str, low: float, data_std: float, options: dict[str, Any]) -> Run:
    """A scheduler as a sampler."""
    edm = name.startswith("EDM")

    def sample(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
        if nfe < 2:
            return None
        scheduler = scheduler_on(kind, nfe, low, name, data_std, options)
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


def edm_settings() -> Iterator[tuple[str, str, str, float, dict[str, Any]]]:
    """DPM-Solver++ in the convention of EDM: the words, the name, the grid, its end and the options of each."""
    for order, kind, low, last, lower in itertools.product((2, 3), ("karras 5", *KINDS), LOWS, BOOLEANS, BOOLEANS):
        for solver_type in ("midpoint", "heun") if order == 2 else ("midpoint",):
            options: dict[str, Any] = {"solver_order": order, "solver_type": solver_type, "lower_order_final": lower}
            options["euler_at_final"] = last
            setting = f"EDM DPM++ {order}M {solver_type}, {kind}, sigma_min {low}"
            setting += ", euler_at_final" * last + ", lower_order_final" * lower
            yield setting, "EDMDPMSolverMultistepScheduler", kind, low, options


def unipc_settings() -> Iterator[tuple[str, str, str, float, dict[str, Any]]]:
    """UniPC, in the same form."""
    for order, kind, low, bh, predict_x0, lower in itertools.product(
        (2, 3), KINDS, LOWS, ("bh1", "bh2"), BOOLEANS, BOOLEANS
    ):
        options = {"solver_order": order, "solver_type": bh, "predict_x0": predict_x0, "lower_order_final": lower}
        setting = f"UniPC {order} {bh}, {kind}, sigma_min {low}" + ", predict_x0" * predict_x0
        for final in ("zero", "sigma_min"):
            if final == "zero" and not (predict_x0 and lower):
                continue
            words = f"{setting}{', lower_order_final' * lower}, final {final}"
            yield words, "UniPCMultistepScheduler", kind, low, {**options, "final_sigmas_type": final}


def other_settings() -> Iterator[tuple[str, str, str, float, dict[str, Any]]]:
    """DEIS, DPM-Solver and single-step DPM-Solver++, in the same form."""
    for order, kind, low in itertools.product((2, 3), KINDS, LOWS):
        for name, short in (
            ("DEISMultistepScheduler", "DEIS"),
            ("DPMSolverMultistepScheduler", "DPM-Solver M"),
            ("DPMSolverSinglestepScheduler", "DPM++ single step"),
        ):
            options: dict[str, Any] = {"solver_order": order}
            if short == "DPM-Solver M":
                options |= {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
            yield f"{short} {order}, {kind}, sigma_min {low}", name, kind, low, options


def diffusers(data_std: float) -> Iterator[Peer]:
    """diffusers (von Platen et al. 2022): its multistep and single-step schedulers, on its Karras and exponential
    sigmas. Its Heun, KDPM2, Euler and LMS schedulers are k-diffusion's samplers and are run there.
    """
    importlib.import_module("diffusers.utils.logging").set_verbosity_error()
    for words, name, kind, low, options in itertools.chain(edm_settings(), unipc_settings(), other_settings()):
        yield Peer("diffusers", words, run(name, kind, low, data_std, options))
