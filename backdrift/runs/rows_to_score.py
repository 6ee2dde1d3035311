"""Which samples a command scores: those of the run's data set, or new ones from a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from backdrift.data.condition_choice import ColumnsCondition, OwnCondition
from backdrift.data.new_samples import read_new
from backdrift.data.reading_advice import advice_of_run
from backdrift.runs.configuration import build
from backdrift.runs.output import chosen
from backdrift.runs.run import Run


@dataclass(frozen=True)
class RowsToScore:
    """Samples v in the units of a run.

    Attributes:
        name: what they are called in messages and pictures, such as "test set".
        stem: of the folder of the results, such as "likelihood-test".
        values: v, `[n, ...]`.
        labels: the number of the class of each, `[n]`, or None.
        places: the row of each in its table or the path of its image, or None where the index tells.
        conditions: the vector or picture that each comes with, `[n, ...]`, in its own units. None where there are none,
            or they are not asked for.
        there: how many samples there are, of which these are the first.
    """

    name: str
    stem: str
    values: Tensor
    labels: Tensor | None
    places: tuple[int | str, ...] | None = None
    conditions: Tensor | None = None
    there: int = 0


def rows_to_score(config: DictConfig, run: Run) -> RowsToScore:
    """The first `config.n` samples (all if it is null) of `config.data.path`, or of a split of the run's data set.

    New samples are read as the run's own files were. The training data are not needed.

    Raises:
        ValueError: for a wrong `split` or `n`, or samples that are not like those of the run.
        FileNotFoundError: if there is nothing at `data.path`, or the run's data set is not there and no path is given.
    """
    n = config.n
    if config.data.path is None:
        data = run.data()
        values, labels = chosen(config, data)
        conditions = None
        if data.conditions is not None:
            conditions = (data.conditions.train if config.split == "train" else data.conditions.test)[:n]
        stem = f"likelihood-{config.split}"
        there = len(data.train if config.split == "train" else data.test)
        _tell_of_fewer(n, there, f"the {config.split} set of {data.name}")
        return RowsToScore(f"{config.split} set", stem, values, labels, conditions=conditions, there=there)
    if config.split not in ("train", "test"):
        raise ValueError(f"split={config.split}: expected train or test")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise ValueError(f"n={n}: expected at least 1 sample, or null for all")
    reading: Any = OmegaConf.to_container(run.config.data, resolve=True)
    try:
        path = Path(str(config.data.path)).expanduser()
        new = read_new(path, run.card, reading, config.split, _condition_columns(config, run))
    except (ValueError, FileNotFoundError) as error:
        if not str(error).startswith("path="):
            raise
        raise type(error)(f"data.{advice_of_run(str(error))}") from error
    _tell_of_fewer(n, len(new.values), new.name)
    # "data" keeps the name apart from that of a test set, which the list of runs shows.
    stem = "likelihood-data-" + re.sub(r"[^\w.-]+", "_", new.name)
    labels = None if new.labels is None else new.labels[:n]
    places = None if new.places is None else new.places[:n]
    conditions = None if new.conditions is None else new.conditions[:n]
    return RowsToScore(new.name, stem, new.values[:n], labels, places, conditions, len(new.values))


def _tell_of_fewer(n: int | None, there: int, name: str) -> None:
    """Say that there are fewer samples than were asked for."""
    if n is not None and n > there:
        print(f"data: {name} has {there} samples, and n={n} takes all of them")


def _condition_columns(config: DictConfig, run: Run) -> ColumnsCondition | None:
    """The columns of the new samples that are their conditions; None if the file holds the samples alone.

    Raises:
        ValueError: if each sample's own condition is asked for, and the run's are in a second file.
    """
    if "condition" not in config or not isinstance(build(config, "condition"), OwnCondition):
        return None
    columns = build(run.config, "condition") if "condition" in run.config else None
    if not isinstance(columns, ColumnsCondition):
        raise ValueError(
            "condition=data: expected a run with condition=columns, whose new samples hold their conditions; "
            "condition=file condition.path=<file> gives those of new samples"
        )
    return columns
