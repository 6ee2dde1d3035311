"""The solvers of torchsde on the reverse SDE."""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
import math
from collections.abc import Iterator

import torch
from peer import SIGMA_MAX, Denoise, Peer, Run
from torch import Tensor


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
