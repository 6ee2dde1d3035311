"""Samples of a model in batches, by a solver that fits its process."""

from __future__ import annotations

import torch
from torch import Tensor

from backdrift.sde import SDE, GaussianSDE, LinearSDE
from backdrift.solvers import ScipyODE, Solver, SymmetricSplitting, TorchDiffEq, TorchSDE, sample
from backdrift.solvers.model import Model

BATCH = 256
"""Samples in memory at once. It changes no sample, since sample i of a seed does not depend on its neighbours."""


def draw(model: Model, solver: Solver, shape: tuple[int, ...], n: int, seed: int) -> Tensor:
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
    require_fit(solver, sde)
    state = sde.state_shape(shape)
    parts = [
        sde.position(sample(model, solver, (min(BATCH, n - first), *state), seed, first=first)).cpu()
        for first in range(0, n, BATCH)
    ]
    return torch.cat(parts)


def require_fit(solver: Solver, sde: SDE) -> None:
    """Check that a solver suits a process, as far as the solver is one of ours.

    Raises:
        ValueError: if it does not, with solvers that do.
    """
    name, process = type(solver).__name__, type(sde).__name__
    if isinstance(solver, SymmetricSplitting):
        if not isinstance(sde, LinearSDE):
            raise ValueError(
                f"{name} is for linear processes with a matrix, such as sde=cld, the process is {process}; "
                "take solver=adams or another"
            )
        return
    ours = type(solver).__module__.startswith("backdrift.solvers.")
    if ours and not isinstance(solver, (ScipyODE, TorchDiffEq, TorchSDE)) and not isinstance(sde, GaussianSDE):
        raise ValueError(
            f"{name} is for Gaussian processes, the process is {process}; "
            "take solver=symmetric_splitting, solver=torchsde or solver=scipy"
        )
