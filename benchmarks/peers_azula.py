"""The samplers of azula, without noise and with it."""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from peer import SIGMA_MAX, Denoise, Peer, Run
from torch import Tensor


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


def azula_noisy(data_std: float) -> Iterator[Peer]:
    """azula's DDPM and Ito samplers on each of its schedules."""
    for name, options in (("DDPM", {}), ("Ito", {"eta": 1.0}), ("Ito", {"eta": 0.5}), ("DDIM", {"eta": 0.5})):
        for schedule, low, unit in itertools.product(("VE", "VP", "Cosine"), (1e-3, 1e-2), (1.0, data_std)):
            setting = f"{name} {options}, {schedule}, sigma_min {low}" + ", standardised" * (unit != 1)
            yield Peer("azula", setting, azula_run(name, schedule, low, unit, options), stochastic=True)
