"""Samples of a model in batches."""

from __future__ import annotations

import torch
from torch import Tensor

from backdrift.solvers import Solver, sample
from backdrift.solvers.model import ModelLike, select

BATCH = 256
"""Samples in memory at once. It changes no sample, since sample i of a seed does not depend on its neighbours."""


def draw(model: ModelLike, solver: Solver, shape: tuple[int, ...], n: int, seed: int) -> Tensor:
    """Samples x `[n, *shape]` in the model's units, on the host. If states hold velocities, they are left out.

    Args:
        model: any model.
        solver: how to go from T to the data.
        shape: of one sample of the data.
        n: number of samples.
        seed: of the starting points and of the solver's noise.

    Raises:
        ValueError: if the solver does not suit the model's process.
    """
    sde = model.sde
    state = sde.state_shape(shape)
    parts = []
    for indices in torch.arange(n).split(BATCH):
        part = select(model, indices)
        x = sample(part, solver, (len(indices), *state), seed, first=int(indices[0]))
        parts.append(sde.position(x).cpu())
    return torch.cat(parts)
