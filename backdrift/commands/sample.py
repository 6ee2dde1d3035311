"""Draw samples from a trained model with any solver."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from backdrift.data import FileCondition, NoCondition
from backdrift.data.results import write_archive, write_table
from backdrift.data.views import readable, readable_data
from backdrift.evaluation import figures
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.conditioning import Conditioned, conditioned, conditioned_on_file
from backdrift.evaluation.sampling import STAGE, draw
from backdrift.evaluation.scored_condition import in_a_name
from backdrift.runs.configuration import blamed, build, one_line
from backdrift.runs.output import OutputFolder, new_folder
from backdrift.runs.process_group import ProcessGroup
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.runs.trained_model import TrainedModel
from backdrift.runs.unfinished import Unfinished
from backdrift.solvers import Compiled, Solver

MOST_ROWS = 16
"""Conditions of which the picture shows samples."""


def main(config: DictConfig) -> None:
    """Write `samples.npz` (in the data's own units) and `samples.png` into a new folder of the run.

    With `label` the samples are of a class, or `n` of each, and `guidance` pushes them towards it. The archive then
    holds their classes as `labels`. With `condition=file` there are `n` samples for each vector or picture of a file,
    in its order. The archive then holds these as `condition`, and the number of that of each sample as `condition_row`.

    Samples of a table with names of columns are also written into `samples.csv`, with what they were drawn given. The
    data set need not be there. If it is, the picture shows test samples beside the generated ones. After an
    interruption the same command goes on. Several processes of torchrun share the samples, and the first one writes.

    Raises:
        ValueError: if there is no such class, the conditions do not fit the network, or some samples are not finite.
        FileNotFoundError: if there is no file of conditions.
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    group = ProcessGroup.join()
    device, run = group.device(config.device), Run.open(config.run, config.trust)
    solver: Solver = build(config, "solver")
    runner = Compiled(solver) if config.compile else solver
    units = run.card.units
    trained = run.model(config.weights, device)
    asked = _asked(config, trained, run)
    model, n = asked.model, asked.n
    provenance = Provenance.now(run, solver, config.seed, config.weights)
    inputs = [] if asked.given is None else [asked.given.values]
    kept = Unfinished.of(run, "sample", provenance, config, model, *inputs, group=group)

    def write_part(folder: Path) -> str | None:
        done = kept.finished(STAGE)
        if done is None:
            return None
        part = provenance.of_part(len(done["x"]), n)
        write_archive(folder / "samples.npz", run.card, done["x"], part.to_json(), asked.labels, asked.given)
        return f"{part.rows} samples are kept in {folder / 'samples.npz'}"

    began = time.perf_counter()
    with kept.interruptible(write_part), Progress("sample", n, shown=group.is_first) as progress:
        try:
            x = draw(model, runner, units.shape, n, config.seed, Batchwise(progress, kept))
        except ValueError as error:
            raise blamed(config, "solver", error) from error
    seconds = time.perf_counter() - began
    broken = int((~x.flatten(1).isfinite().all(1)).sum())
    if broken:
        raise ValueError(f"solver: {broken} of {n} samples are NaN or infinite; take more steps or another solver")
    if not group.is_first:
        kept.close()
        return
    real = _real(run, max(64, n))
    with new_folder(run, _stem(solver, config), config, provenance) as folder:
        _write(folder, run, x, real, asked, config.guidance)
    kept.discard()
    print(f"{n} samples by {solver} in {seconds:.1f} s", folder, sep="\n")


def _asked(config: DictConfig, model: TrainedModel, run: Run) -> Conditioned:
    """The model given what the keys `label` and `condition` ask for.

    Raises:
        ValueError: if both are given, or the condition is one of training.
    """
    choice = build(config, "condition")
    if isinstance(choice, NoCondition):
        return conditioned(model, run.card, config.label, config.guidance, config.n)
    if not isinstance(choice, FileCondition):
        raise ValueError(
            "condition: expected none or file; condition=label and columns are for train, and label=3 samples a class"
        )
    if config.label is not None:
        raise ValueError(f"label={config.label}: expected null beside condition=file")
    return conditioned_on_file(model, run.card, choice, config.guidance, config.n)


def _stem(solver: Solver, config: DictConfig) -> str:
    """The name of the folder: the solver, the class and the guidance where there are any, and the seed."""
    given = in_a_name(config.label, config.guidance, condition=config.condition)
    return f"samples-{type(solver).__name__.lower()}{given}-seed{config.seed}"


def _write(folder: OutputFolder, run: Run, x: Tensor, real: Tensor | None, asked: Conditioned, guidance: float) -> None:
    """Write the samples and their picture, with a row for each class or condition where several were asked for."""
    card, labels, names, given = run.card, asked.labels, asked.names, asked.given
    with folder.new("samples.npz") as file:
        write_archive(file, card, x, folder.provenance.to_json(), labels, given)
    if card.columns is not None:
        with folder.new("samples.csv") as file:
            of_class = None if labels is None else _named(labels, names)
            write_table(file, card, x, folder.provenance.comment(), of_class, given)
    drawn, guided = readable(card.units, x), "" if guidance == 1 else f", guidance w = {guidance:g}"
    if labels is not None and card.units.is_picture and len(labels.unique()) > 1:
        folder.save_figure(
            "samples.png", figures.by_class(drawn, labels, names, title=f"generated, a row for each class{guided}")
        )
    elif given is not None and card.units.is_picture and len(given.places) > 1:
        shown = given.rows < MOST_ROWS
        places = [str(place) for place in given.places]
        title = f"generated, a row for each condition{guided}"
        folder.save_figure("samples.png", figures.by_class(drawn[shown], given.rows[shown], places, title=title))
    else:
        folder.save_figure("samples.png", figures.samples(drawn, real, columns=card.columns))


def _named(labels: Tensor, names: Sequence[str]) -> list[str]:
    """The name of the class of each sample."""
    return [names[label] for label in labels.tolist()]


def _real(run: Run, n: int) -> Tensor | None:
    """The first test samples as the figures want them, or None where the data set cannot be loaded."""
    try:
        data = run.data()
    except (ValueError, OSError) as error:
        print(f"the picture has no test samples: {one_line(error)}")
        return None
    return readable_data(data.units, data.test[:n])
