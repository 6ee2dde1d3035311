"""Draw samples from a trained model with any solver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from backdrift.data import Data
    from sde import SDE
    from solvers import Solver

BATCH = 256
"""Samples in memory at once. It changes no sample: sample i of a seed does not know its neighbours."""


def main(config: DictConfig) -> None:
    """Write `samples.npz` (in the data's own units) and `samples.png` into a new folder of the run.

    Raises:
        ValueError: if `n` is below 1, or some samples are not finite.
    """
    import time

    import numpy as np

    from backdrift import figures
    from backdrift.configuration import blamed, build
    from backdrift.output import new_folder
    from backdrift.run import Run

    if config.n < 1:
        raise ValueError(f"n={config.n}: expected at least 1 sample")
    if config.seed < 0:
        raise ValueError(f"seed={config.seed}: expected 0 or more")
    run = Run.open(config.run)
    solver: Solver = build(config, "solver")
    data, model = run.data(), run.model(config.weights)
    began = time.perf_counter()
    try:
        x = draw(model, solver, data.shape, config.n, config.seed)
    except ValueError as error:
        raise blamed(config, "solver", error) from error
    seconds = time.perf_counter() - began
    broken = int((~x.flatten(1).isfinite().all(1)).sum())
    if broken:
        raise ValueError(
            f"solver: {broken} of {config.n} samples are NaN or infinite; take more steps or another solver"
        )

    folder = new_folder(run, f"samples-{type(solver).__name__.lower()}-seed{config.seed}", config)
    np.savez(folder / "samples.npz", x=stored(data, x))
    figures.samples(readable(data, x), readable_data(data, data.test[: max(64, config.n)])).savefig(
        folder / "samples.png"
    )
    print(f"{config.n} samples by {solver} in {seconds:.1f} s\n{folder / 'samples.npz'}\n{folder / 'samples.png'}")


def draw(model: Any, solver: Solver, shape: tuple[int, ...], n: int, seed: int) -> Tensor:
    """`n` samples x `[n, *shape]` in the model's units, on the host: the data's part of the states."""
    import torch

    from solvers import sample

    sde = model.sde
    require_fit(solver, sde)
    state = sde.state_shape(shape)
    parts = [
        sde.position(sample(model, solver, (min(BATCH, n - first), *state), seed, first=first)).cpu()
        for first in range(0, n, BATCH)
    ]
    return torch.cat(parts)


def require_fit(solver: Solver, sde: SDE) -> None:
    """Raise `ValueError`, saying what to take, where one of our solvers is not for such a process."""
    from sde import GaussianSDE, LinearSDE
    from solvers import ProbabilityFlow, SymmetricSplitting, TorchDiffEq, TorchSDE

    name, process = type(solver).__name__, type(sde).__name__
    if isinstance(solver, SymmetricSplitting):
        if not isinstance(sde, LinearSDE):
            raise ValueError(
                f"{name} is for linear processes with a matrix, such as sde=cld, the process is {process}; "
                "take solver=adams or another"
            )
        return
    ours = type(solver).__module__.startswith("solvers.")
    if ours and not isinstance(solver, (ProbabilityFlow, TorchDiffEq, TorchSDE)) and not isinstance(sde, GaussianSDE):
        raise ValueError(
            f"{name} is for Gaussian processes, the process is {process}; "
            "take solver=symmetric_splitting, solver=torchsde or solver=probability_flow"
        )


def readable(data: Data, x: Tensor) -> Tensor:
    """x as the figures want it: brightness in [0, 1] for pictures, vectors and series in the data's units."""
    if data.is_picture:
        return data.to_pixels(x)
    return data.to_data(x) if len(data.shape) <= 2 else data.to_data(x).flatten(1)


def readable_data(data: Data, values: Tensor) -> Tensor:
    """The same for samples of the data set itself."""
    if not data.is_picture:
        return values.float() if len(data.shape) <= 2 else values.float().flatten(1)
    # A level sits in the middle of its bin: no rounding may push it into the next one.
    return data.to_pixels((values.float() + 0.5 * (data.levels is not None) - data.shift) / data.scale)


def stored(data: Data, x: Tensor) -> np.ndarray[Any, Any]:
    """The data's own units, in the smallest type that holds them: bytes for up to 256 levels."""
    import numpy as np

    values = data.to_data(x).numpy()
    return values.astype(np.uint8) if data.levels is not None and data.levels <= 256 else values
