"""Measure a trained denoiser's error along the noise, and from it information and entropy in nats."""

from __future__ import annotations

import math

from omegaconf import DictConfig

from backdrift.evaluation import figures
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.information_curves import evaluations, information_curves
from backdrift.evaluation.scored_condition import in_a_name, model_scoring, rows_of_class, said
from backdrift.runs.output import new_folder
from backdrift.runs.process_group import ProcessGroup
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.runs.unfinished import Unfinished


def main(config: DictConfig) -> None:
    """Write `information.csv` and `information.png` into a new folder of the run.

    With `label` the model is given a class, and is measured on samples of that class, or given each sample's own.
    Several processes of torchrun share the samples, and the first one writes.

    Raises:
        ValueError: if some values are not finite.
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    group = ProcessGroup.join()
    device, run = group.device(config.device), Run.open(config.run, config.trust, config.data.changed)
    data, trained = run.data(), run.gaussian_model(config.weights, device)
    values, labels = rows_of_class(config, data, trained)
    model = model_scoring(trained, run.card, config.label, labels, len(values))
    classes = None if config.label is None else labels
    integrals = {name: config[name] for name in ("levels", "strata", "draws")}
    integrator = f"I-MMSE, {', '.join(f'{name} {value}' for name, value in integrals.items())}"
    provenance = Provenance.now(run, integrator, config.seed, config.weights, said(config.label))
    kept = Unfinished.of(run, "information", provenance, config, trained, values, group=group)
    total = len(values) * evaluations(**integrals)
    with kept.interruptible(), Progress("information", total, "evaluation", shown=group.is_first) as progress:
        work = Batchwise(progress, kept, stages=True)
        curves = information_curves(model, data, values, classes, **integrals, seed=config.seed, work=work)
    if not all(math.isfinite(e.value) for e in (curves.entropy, *curves.mmse, *curves.information)):
        raise ValueError("information: some values are NaN or infinite")
    if not group.is_first:
        kept.close()
        return
    with new_folder(run, f"information-{config.split}{in_a_name(config.label)}", config, provenance) as folder:
        with folder.new("information.csv") as file:
            curves.save(file, provenance)
        folder.save_figure("information.png", figures.information(curves))
    kept.discard()
    given = "" if config.label is None else f" given {said(config.label)}"
    print(f"{config.split} set{given}: {curves}", folder, sep="\n")
