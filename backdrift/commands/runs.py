"""List the run folders: their process, how far they are, their loss and likelihood."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from backdrift.runs.listing import created, find_runs, summarise, table


def main(config: DictConfig) -> None:
    """Print one line for each of the newest `n` runs in the folder `runs`, the newest last.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folder = Path(str(config.runs)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"runs={folder}: there is no such folder")
    found = sorted(find_runs(folder), key=created)
    if not found:
        print(f"{folder} holds no runs")
        return
    shown = found if config.n is None else found[-config.n :]
    print(table([summarise(path) for path in shown]))
    if len(shown) < len(found):
        print(f"and {len(found) - len(shown)} older ones: n=null lists all")
