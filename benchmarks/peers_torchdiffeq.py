"""The solvers of torchdiffeq on the probability flow."""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from peer import SIGMA_MAX, Denoise, Peer, Run
from torch import Tensor


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


def coordinates(
    kind: str, data_std: float
) -> tuple[Callable[[float], float], Callable[[Denoise], Callable[[Tensor, Tensor], Tensor]]]:
    """The time of a sigma, and the velocity of the flow in this time, for a kind of coordinates."""
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


def scale(kind: str, sigma: float, data_std: float) -> float:
    """By what x is divided to be the state in these coordinates."""
    return math.hypot(sigma, data_std) if kind == "angle" else 1.0


def torchdiffeq(data_std: float) -> Iterator[Peer]:
    """torchdiffeq (Chen 2018): fixed and adaptive methods on the flow in sigma, log(sigma) and the angle
    atan(sigma/data_std) of the variance-preserving state, with a denoise step at the end.
    """
    odeint = importlib.import_module("torchdiffeq").odeint

    def at_fixed(method: str, kind: str, low: float, rho: float) -> Run:
        time, field = coordinates(kind, data_std)

        def run(denoise: Denoise, x: Tensor, nfe: int) -> Tensor | None:
            steps = (nfe - 1) // FIXED[method]
            if steps < 1:
                return None
            if rho:
                sigmas = torch.linspace(SIGMA_MAX ** (1 / rho), low ** (1 / rho), steps + 1, dtype=x.dtype) ** rho
                times = torch.tensor([time(float(s)) for s in sigmas], dtype=x.dtype)
            else:
                times = torch.linspace(time(SIGMA_MAX), time(low), steps + 1, dtype=x.dtype)
            x = odeint(field(denoise), x / scale(kind, SIGMA_MAX, data_std), times, method=method)[-1] * scale(
                kind, low, data_std
            )
            return denoise(x, torch.tensor(low, dtype=x.dtype))

        return run

    def at_tolerance(method: str, kind: str, low: float) -> Run:
        time, field = coordinates(kind, data_std)

        def solve(denoise: Denoise, x: Tensor, tolerance: float) -> Tensor:
            times = torch.tensor([time(SIGMA_MAX), time(low)], dtype=x.dtype)
            start = x / scale(kind, SIGMA_MAX, data_std)
            return odeint(field(denoise), start, times, method=method, rtol=tolerance, atol=tolerance)[-1] * scale(
                kind, low, data_std
            )

        return adaptive(solve, low)

    for method, kind, low, rho in itertools.product(FIXED, ("sigma", "log sigma", "angle"), (0.002, 0.02), (0, 7)):
        grid = "Karras 7" if rho else "even"
        yield Peer("torchdiffeq", f"{method} in {kind}, {grid}, ends {low}", at_fixed(method, kind, low, rho))
    for method, kind, low in itertools.product(ADAPTIVE, ("log sigma", "angle"), (0.002, 0.02)):
        yield Peer(
            "torchdiffeq", f"{method} in {kind}, ends {low}", at_tolerance(method, kind, low), keeps_account=True
        )
