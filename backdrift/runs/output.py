"""Where a command that uses a run writes its results: a new folder inside the run's, never an old one."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from backdrift.data import Data
from backdrift.runs.run import Run


def new_folder(run: Run, stem: str, config: DictConfig) -> Path:
    """Make the folder `<run>/<stem>`, or the first free one of `<run>/<stem>-2`, -3, …

    The config of the command that makes the results is saved in it as `config.yaml`.
    """
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
    """Save figures by their names, and print the paths of all files.

    Args:
        folder: where the figures go.
        table: the name of a table that is in the folder already.
        drawn: the figures by their file names.
    """
    for name, figure in drawn.items():
        figure.savefig(folder / name)
    for name in (table, *drawn):
        print(folder / name)


def chosen(config: DictConfig, data: Data) -> tuple[Tensor, Tensor | None]:
    """The first `config.n` samples of the split `config.split` (all if `n` is null), and their labels or None.

    Raises:
        ValueError: if the split is neither "train" nor "test", or n is below 2.
    """
    if config.split not in ("train", "test"):
        raise ValueError(f"split={config.split}: expected train or test")
    if config.n is not None and config.n < 2:
        raise ValueError(f"n={config.n}: expected at least 2 samples, or null for all")
    values, labels = (data.train, data.train_labels) if config.split == "train" else (data.test, data.test_labels)
    return values[: config.n], None if labels is None else labels[: config.n]
