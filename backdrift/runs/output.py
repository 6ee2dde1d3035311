"""Where a command that uses a run leaves what it made: a new folder inside the run's, never an old one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from backdrift.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from backdrift.data import Data


def new_folder(run: Run, stem: str, config: DictConfig) -> Path:
    """`<run>/<stem>`, or `<run>/<stem>-2`, … where that exists; `config.yaml` in it says how it was made."""
    number = 1
    while True:
        path = run.path / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            continue
        OmegaConf.save(config, path / "config.yaml", resolve=True)
        return path


def save_figures(folder: Path, table: str, drawn: dict[str, Figure]) -> None:
    """Save figures under their names beside a table that is there, and print where all of them are."""
    for name, figure in drawn.items():
        figure.savefig(folder / name)
    for name in (table, *drawn):
        print(folder / name)


def chosen(config: DictConfig, data: Data) -> tuple[Tensor, Tensor | None]:
    """The first `n` (null: all) values of `split`, and their labels where there are some.

    Raises:
        ValueError: if the split is neither "train" nor "test", or n is below 2.
    """
    if config.split not in ("train", "test"):
        raise ValueError(f"split={config.split}: expected train or test")
    if config.n is not None and config.n < 2:
        raise ValueError(f"n={config.n}: expected at least 2 samples, or null for all")
    values, labels = (data.train, data.train_labels) if config.split == "train" else (data.test, data.test_labels)
    return values[: config.n], None if labels is None else labels[: config.n]
