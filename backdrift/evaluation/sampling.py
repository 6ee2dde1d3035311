"""Samples of a model in batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from backdrift.evaluation.batchwise import HERE, Batchwise
from backdrift.runs.unfinished import Batch
from backdrift.sde import GaussianSDE
from backdrift.solvers import Solver, TableSolver, sample
from backdrift.solvers.model import ModelLike, select

STAGE = "samples"
"""The name of these computations among those of a command."""


def draw(
    model: ModelLike,
    solver: Solver,
    shape: tuple[int, ...],
    n: int,
    seed: int,
    work: Batchwise = HERE,
    *,
    stage: str = STAGE,
    weight: float = 1.0,
) -> Tensor:
    """Samples x `[n, *shape]` in the model's units, on the host. If states hold velocities, they are left out.

    Args:
        model: any model.
        solver: how to go from T to the data.
        shape: of one sample of the data.
        n: number of samples.
        seed: of the starting points and of the solver's noise.
        work: how the batches are done.
        stage: the name of these samples among the results of a command.
        weight: what one sample counts in the progress.

    Raises:
        ValueError: if the solver does not suit the model's process.
    """
    sde = model.sde
    state = sde.state_shape(shape)

    def drawn(indices: Tensor) -> Batch:
        part, size = select(model, indices), (len(indices), *state)
        with _within_a_batch(part, solver, work, weight * len(indices)):
            return {"x": sde.position(sample(part, solver, size, seed, first=int(indices[0])))}

    return work(drawn, n, torch.Size(state).numel(), stage=stage, weight=weight)["x"]


@contextmanager
def _within_a_batch(model: ModelLike, solver: Solver, work: Batchwise, weight: float) -> Iterator[None]:
    """Tell the progress after each evaluation of a network, by a solver that says how many there will be.

    A hook of the network changes no sample. `on_step` could: with it a solver may round in another way.
    """
    network = getattr(model, "network", None)
    if work.progress is None or not isinstance(network, nn.Module) or not isinstance(solver, TableSolver):
        yield
        return
    solver.require_process(model.sde)
    nfe = solver.for_model(model).table(cast(GaussianSDE, model.sde)).nfe
    evaluations = itertools.count(1)

    def tell(*_: Any) -> None:
        if next(evaluations) < nfe:  # the end of the batch counts the last one
            work.advance(weight / nfe)

    hook = network.register_forward_hook(tell)
    try:
        yield
    finally:
        hook.remove()
