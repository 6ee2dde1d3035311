"""Measure a trained denoiser's error along the noise, and from it information and entropy in nats."""

from __future__ import annotations

import math

from omegaconf import DictConfig

from backdrift.evaluation import figures
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.information_curves import evaluations, information_curves
from backdrift.evaluation.scored_condition import (
    conditions_asked,
    in_a_name,
    model_given,
    model_scoring,
    rows_of_class,
    said,
)
from backdrift.runs.output import new_folder
from backdrift.runs.process_group import ProcessGroup
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.runs.unfinished import Unfinished


def main(config: DictConfig) -> None:
    """Write `information.csv` and `information.png` into a new folder of the run.

    With `label` the model is given a class, and is measured on samples of that class, or given each sample's own. With
    `condition=data` it is given the vector or picture that each sample comes with. Several processes of torchrun share
    the samples, and the first one writes.

    Raises:
        ValueError: if some values are not finite.
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    group = ProcessGroup.join()
    device, run = group.device(config.device), Run.open(config.run, config.trust, config.data.changed)
    data, trained = run.data(), run.gaussian_model(config.weights, device)
    if "path" in config.condition:
        raise ValueError("condition: expected none or data, as what is measured holds for the samples' own conditions")
    values, labels = rows_of_class(config, data, trained)
    split = "train" if config.split == "train" else "test"
    own = None if data.conditions is None else getattr(data.conditions, split)[: len(values)]
    conditions = conditions_asked(config, run.card, own, len(values))
    if conditions is None:
        model = model_scoring(trained, run.card, config.label, labels, len(values))
    else:
        model = model_given(trained, run.card, conditions)
    classes, asked = None if config.label is None else labels, said(config.label, condition=config.condition)
    integrals = {name: config[name] for name in ("levels", "strata", "draws")}
    integrator = f"I-MMSE, {', '.join(f'{name} {value}' for name, value in integrals.items())}"
    provenance = Provenance.now(run, integrator, config.seed, config.weights, asked)
    inputs = (values,) if conditions is None else (values, conditions)
    kept = Unfinished.of(run, "information", provenance, config, trained, *inputs, group=group)
    total = len(values) * evaluations(**integrals)
    with kept.interruptible(), Progress("information", total, "evaluation", shown=group.is_first) as progress:
        work = Batchwise(progress, kept, stages=True)
        curves = information_curves(
            model, data, values, classes, conditions is not None, **integrals, seed=config.seed, work=work
        )
    if not all(math.isfinite(e.value) for e in (curves.entropy, *curves.mmse, *curves.information)):
        raise ValueError("information: some values are NaN or infinite")
    if not group.is_first:
        kept.close()
        return
    stem = f"information-{config.split}{in_a_name(config.label, condition=config.condition)}"
    with new_folder(run, stem, config, provenance) as folder:
        with folder.new("information.csv") as file:
            curves.save(file, provenance)
        folder.save_figure("information.png", figures.information(curves))
    kept.discard()
    given = "" if asked is None else f" given {asked}"
    print(f"{config.split} set{given}: {curves}", folder, sep="\n")
