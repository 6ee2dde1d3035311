"""Which samples a command scores: those of the run's data set, or new ones from a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from backdrift.data.new_samples import read_new
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
    """

    name: str
    stem: str
    values: Tensor
    labels: Tensor | None
    places: tuple[int | str, ...] | None = None


def rows_to_score(config: DictConfig, run: Run) -> RowsToScore:
    """The first `config.n` samples (all if it is null) of `config.data.path`, or of a split of the run's data set.

    New samples are read as the run's own files were. The training data need not be there.

    Raises:
        ValueError: for a wrong `split` or `n`, or samples that are not like those of the run.
        FileNotFoundError: if there is nothing at `data.path`, or the run's data set is not there and no path is given.
    """
    if config.data.path is None:
        values, labels = chosen(config, run.data())
        return RowsToScore(f"{config.split} set", f"likelihood-{config.split}", values, labels)
    if config.split not in ("train", "test"):
        raise ValueError(f"split={config.split}: expected train or test")
    n = config.n
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise ValueError(f"n={n}: expected at least 1 sample, or null for all")
    reading: Any = OmegaConf.to_container(run.config.data, resolve=True)
    try:
        new = read_new(Path(str(config.data.path)).expanduser(), run.card, reading, config.split)
    except (ValueError, FileNotFoundError) as error:
        if not str(error).startswith("path="):
            raise
        raise type(error)(f"data.{error}") from error
    # "data" keeps the name apart from that of a test set, which the list of runs shows.
    stem = "likelihood-data-" + re.sub(r"[^\w.-]+", "_", new.name)
    labels = None if new.labels is None else new.labels[:n]
    return RowsToScore(new.name, stem, new.values[:n], labels, None if new.places is None else new.places[:n])
