"""Where a command that uses a run leaves what it made: a new folder inside the run's, never an old one."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from backdrift.run import Run


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
