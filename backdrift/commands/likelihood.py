"""Score data under a trained model: log-likelihoods in nats and bits per dimension, with their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from backdrift.data.condition_choice import NoCondition
from backdrift.data.views import readable_data
from backdrift.evaluation import figures
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.class_posterior import classify, log_frequencies
from backdrift.evaluation.conditioning import EVERY
from backdrift.evaluation.scored_condition import (
    conditions_asked,
    in_a_name,
    model_given,
    model_scoring,
    require_classes,
    said,
)
from backdrift.evaluation.scoring import STAGE, collected, score
from backdrift.runs.configuration import blamed, build, one_line
from backdrift.runs.output import new_folder
from backdrift.runs.process_group import ProcessGroup
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.rows_to_score import rows_to_score
from backdrift.runs.run import Run
from backdrift.runs.unfinished import Unfinished


def main(config: DictConfig) -> None:
    """Write `likelihood.csv`, `histogram.png` and `extremes.png` into a new folder of the run.

    With `label` the likelihoods are those given a class, or given each sample's own. With `condition=data` they are
    log p(x | y) with the vector or picture y that each sample comes with, and with `condition=file` those of a file.
    With `label=all` the probability of each class is found by Bayes' rule, see `solvers.class_posterior`.

    After an interruption the rows that are scored are in a table of their own, and the same command goes on. Several
    processes of torchrun share the rows, and the first one writes.

    Raises:
        ValueError: if there is no such class, the conditions do not fit, or some log-likelihoods are not finite.
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    if config.label == EVERY:
        _class_probabilities(config)
        return
    group = ProcessGroup.join()
    device, run = group.device(config.device), Run.open(config.run, config.trust, config.data.changed)
    rows, trained, card = rows_to_score(config, run), run.model(config.weights, device), run.card
    values = rows.values
    conditions = conditions_asked(config, card, rows.conditions, len(values), rows.there)
    if conditions is None:
        model = model_scoring(trained, card, config.label, rows.labels, len(values))
    else:
        model = model_given(trained, card, conditions)
    settings, asked = _settings(config), said(config.label, condition=config.condition)
    provenance = Provenance.now(run, _in_words(settings), settings["seed"], config.weights, asked)
    inputs = (values,) if conditions is None else (values, conditions)
    kept = Unfinished.of(run, "likelihood", provenance, config, trained, *inputs, group=group)

    def write_part(folder: Path) -> str | None:
        done = kept.finished(STAGE)
        if done is None:
            return None
        scores = collected(done, card.units, settings)
        part = provenance.of_part(len(scores.log_prob), len(values))
        scores.save(folder / "likelihood.csv", rows.labels, card.classes, part, rows.places)
        return f"{part.rows} rows are scored in {folder / 'likelihood.csv'}"

    with kept.interruptible(write_part), Progress("likelihood", len(values), shown=group.is_first) as progress:
        try:
            scores = score(model, card.units, values, work=Batchwise(progress, kept), **settings)
        except (TypeError, ValueError) as error:
            raise blamed(config, "likelihood", error) from error
    broken = int((~scores.log_prob.isfinite()).sum())
    if broken:
        raise ValueError(f"likelihood: {broken} of {len(values)} values are NaN or infinite; increase likelihood.steps")
    if not group.is_first:
        kept.close()
        return

    given = in_a_name(config.label, condition=config.condition)
    stem = rows.stem.replace("likelihood", f"likelihood{given}", 1)
    with new_folder(run, stem, config, provenance) as folder:
        with folder.new("likelihood.csv") as file:
            scores.save(file, rows.labels, card.classes, provenance, rows.places)
        print(f"{rows.name}{'' if asked is None else f' given {asked}'}: {scores}")
        drawn = figures.likelihood_histogram({rows.name: scores.values}, scores.unit)
        folder.save_figure("histogram.png", drawn)
        most_is, shown = "high" if card.units.levels is None else "low", readable_data(card.units, values)
        drawn = figures.most_and_least_likely(shown, scores.values, scores.unit, most_is, columns=card.columns)
        folder.save_figure("extremes.png", drawn)
    kept.discard()
    print(folder)


def _class_probabilities(config: DictConfig) -> None:
    """Write log p(class | x) of each row as `class_posterior.csv`, and `confusion.png` where the rows have labels.

    Raises:
        ValueError: if the network has no classes, or some log-probabilities are not finite.
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    if not isinstance(build(config, "condition"), NoCondition):
        raise ValueError("label=all: expected condition=none beside it, as it asks for the classes")
    group = ProcessGroup.join()
    device, run = group.device(config.device), Run.open(config.run, config.trust, config.data.changed)
    rows, model, card = rows_to_score(config, run), run.model(config.weights, device), run.card
    classes = require_classes(model, config.label)
    names = card.names_of(classes)
    log_prior = _log_prior(config, run, classes)
    by = config.classes.by or ("flow" if card.units.dim <= 8 else "errors")
    chosen: dict[str, Any] = {"by": by, "draws": config.classes.draws}
    settings = _settings(config)
    chosen |= settings if by == "flow" else {"strata": config.classes.strata, "seed": settings["seed"]}
    solver = f"class posterior, {_in_words(chosen)}, prior {config.classes.prior}"
    provenance = Provenance.now(run, solver, settings["seed"], config.weights, said(config.label))
    kept = Unfinished.of(run, "likelihood", provenance, config, model, rows.values, log_prior, group=group)
    with kept.interruptible(), Progress("likelihood", len(rows.values), shown=group.is_first) as progress:
        work = Batchwise(progress, kept)
        try:
            found = classify(model, card.units, rows.values, log_prior, names, rows.labels, work=work, **chosen)
        except (TypeError, ValueError) as error:
            raise blamed(config, "likelihood", error) from error
    if bool(found.posterior.log_prob.isnan().any()):
        raise ValueError(f"likelihood: some of the {len(rows.values)} rows have no probabilities; they are NaN")
    if not group.is_first:
        kept.close()
        return
    with new_folder(run, rows.stem.replace("likelihood", "classes", 1), config, provenance) as folder:
        with folder.new("class_posterior.csv") as file:
            found.save(file, provenance, rows.places)
        if rows.labels is not None:
            folder.save_figure("confusion.png", figures.confusion(found.confusion(), names))
        print(f"{rows.name}: {found}")
    kept.discard()
    print(folder)


def _log_prior(config: DictConfig, run: Run, classes: int) -> torch.Tensor:
    """log p(class), `[classes]`: the shares of the classes in the training set, or equal ones.

    Raises:
        ValueError: if the shares are asked for, and the data set is not there or has no labels.
    """
    if config.classes.prior == "equal":
        return torch.full((classes,), 1 / classes, dtype=torch.float64).log()
    try:
        labels = run.data().train_labels
    except (ValueError, OSError) as error:
        raise ValueError(
            f"classes.prior=data: the run's data set is not there ({one_line(error)}); classes.prior=equal needs none"
        ) from error
    if labels is None:
        raise ValueError("classes.prior=data: the run's data set has no labels; classes.prior=equal needs none")
    return log_frequencies(labels, classes)


def _settings(config: DictConfig) -> dict[str, Any]:
    """The keys of `likelihood`, with the seed."""
    settings: dict[str, Any] = OmegaConf.to_container(config.likelihood)  # type: ignore[assignment]
    return settings | {"seed": settings.get("seed", 0)} | ({"compile": True} if config.compile else {})


def _in_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
