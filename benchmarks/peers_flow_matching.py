"""The solvers of flow_matching."""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
from collections.abc import Iterator

import torch
from peer import SIGMA_MAX, Denoise, Peer, Run
from peers_torchdiffeq import FIXED
from torch import Tensor


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
