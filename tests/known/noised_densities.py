"""Normal densities and mixtures under a process, and states of them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import (
    GaussianSDE,
)


def gaussian(sde: GaussianSDE, dim: int = 6, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / math.sqrt(dim)
    return GaussianMixture(torch.zeros(1, dim).double(), (root @ root.mT)[None], sde=sde).to(dtype)


def mixture(
    sde: GaussianSDE, dim: int = 2, parts: int = 4, dtype: torch.dtype = torch.float64, seed: int = 2
) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(parts, dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    means = torch.randn(parts, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture(means, 0.3 * root @ root.mT + 0.02 * torch.eye(dim).double(), sde=sde).to(dtype)


def states(model: GaussianMixture, n: int, seed: int = 0) -> Tensor:
    """Draws of x_eps."""
    generator = torch.Generator().manual_seed(seed)
    x = model.sample(n, generator)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return model.sde.perturb(x, model.sde.eps, noise)


def truth(model: GaussianMixture) -> Any:
    """The true p_T in place of the prior, so that the solver makes the only error."""
    return SimpleNamespace(log_prob=lambda x: model.log_prob(x, model.sde.T))


class OnlyDenoises:
    """A model of which only D is known, as of a network."""

    def __init__(self, model: GaussianMixture) -> None:
        self.sde, self.denoise = model.sde, model.denoise
