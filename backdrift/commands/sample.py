"""Draw samples from a trained model with any solver."""

from __future__ import annotations

import time

from omegaconf import DictConfig
from torch import Tensor

from backdrift.data.results import write_samples
from backdrift.data.views import readable, readable_data
from backdrift.evaluation import figures
from backdrift.evaluation.sampling import draw
from backdrift.runs.configuration import blamed, build, one_line
from backdrift.runs.output import new_folder
from backdrift.runs.run import Run
from backdrift.solvers import Solver


def main(config: DictConfig) -> None:
    """Write `samples.npz` (in the data's own units) and `samples.png` into a new folder of the run.

    Samples of a table with names of columns are also written into `samples.csv`. The data set need not be there. If it
    is, the picture shows test samples beside the generated ones.

    Raises:
        ValueError: if `n` is below 1, or some samples are not finite.
    """
    if config.n < 1:
        raise ValueError(f"n={config.n}: expected at least 1 sample")
    if config.seed < 0:
        raise ValueError(f"seed={config.seed}: expected 0 or more")
    run = Run.open(config.run, config.trust)
    solver: Solver = build(config, "solver")
    units, model = run.card.units, run.model(config.weights)
    began = time.perf_counter()
    try:
        x = draw(model, solver, units.shape, config.n, config.seed)
    except ValueError as error:
        raise blamed(config, "solver", error) from error
    seconds = time.perf_counter() - began
    broken = int((~x.flatten(1).isfinite().all(1)).sum())
    if broken:
        raise ValueError(
            f"solver: {broken} of {config.n} samples are NaN or infinite; take more steps or another solver"
        )

    folder = new_folder(run, f"samples-{type(solver).__name__.lower()}-seed{config.seed}", config)
    files = [*write_samples(folder, run.card, x), folder / "samples.png"]
    real = _real(run, max(64, config.n))
    figures.samples(readable(units, x), real, columns=run.card.columns).savefig(files[-1])
    print(f"{config.n} samples by {solver} in {seconds:.1f} s", *files, sep="\n")


def _real(run: Run, n: int) -> Tensor | None:
    """The first test samples as the figures want them, or None where the data set cannot be loaded."""
    try:
        data = run.data()
    except (ValueError, OSError) as error:
        print(f"the picture has no test samples: {one_line(error)}")
        return None
    return readable_data(data.units, data.test[:n])
