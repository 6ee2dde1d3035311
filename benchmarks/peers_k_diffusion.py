"""The samplers of k-diffusion, without noise and with it."""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peer import SIGMA_MAX, Denoise, Peer, Run
from torch import Tensor


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
