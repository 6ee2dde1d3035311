"""The model of independent parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE, Time
from backdrift.sde.checks import require_count
from backdrift.solvers.density.arguments import require_gaussian_model
from backdrift.solvers.model import ModelLike, denoiser_of, select


class Independent:
    """The product of the densities of independent parts. Its denoiser is their denoisers side by side.

    Args:
        models: one for each part. Their processes have the same alpha and sigma.
        sizes: how many components of the last axis each part has.

    Raises:
        ValueError: if there is not one size for each model, or the models have different processes.
        TypeError: if one of the models is not a model.
    """

    def __init__(self, models: Sequence[ModelLike], sizes: Sequence[int]) -> None:
        if len(models) != len(sizes) or not models:
            raise ValueError(
                f"models, sizes: expected as many of each, at least one, got {len(models)} and {len(sizes)}"
            )
        for model in models:
            require_gaussian_model(model)
        for size in sizes:
            require_count("sizes", size)
        self.models, self.sizes, self.sde = list(models), list(sizes), cast(GaussianSDE, models[0].sde)
        self._denoisers = [denoiser_of(model) for model in models]
        times = torch.linspace(0.1, 1, 10, dtype=torch.float64, device="cpu")
        for model in models[1:]:
            self._require_same_process(cast(GaussianSDE, model.sde), times)

    def _require_same_process(self, other: GaussianSDE, share: Tensor) -> None:
        same = self.sde is other or (
            self.sde.T == other.T
            and torch.allclose(self.sde.alpha(share * self.sde.T), other.alpha(share * other.T))
            and torch.allclose(self.sde.sigma(share * self.sde.T), other.sigma(share * other.T))
        )
        if not same:
            raise ValueError(f"models: expected one process for all parts, got {self.sde!r} and {other!r}")

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        """D of each part, side by side, like x `[batch, ..., sum of sizes]`.

        Raises:
            ValueError: if the last axis of x has another length.
        """
        if x.shape[-1] != sum(self.sizes):
            raise ValueError(f"x: expected {sum(self.sizes)} components along the last axis, got {x.shape[-1]}")
        parts = x.split(self.sizes, -1)
        return torch.cat([denoise(part, t) for denoise, part in zip(self._denoisers, parts, strict=True)], -1)

    def select(self, indices: Tensor) -> Independent:
        """The same model for the samples at `indices` alone."""
        return Independent([select(model, indices) for model in self.models], self.sizes)
