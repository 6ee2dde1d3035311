"""Write the report of a run, whether or not its training is finished."""

from __future__ import annotations

from omegaconf import DictConfig

from backdrift.evaluation import report
from backdrift.runs.device import device_named
from backdrift.runs.run import Run


def main(config: DictConfig) -> None:
    """Write `report.md`, `report.html` and pictures into the run's folder, from its newest checkpoint, over older ones.

    Raises:
        ValueError, OSError: if the run cannot be opened, or its data set is not there or has changed.
    """
    device, run = device_named(config.device), Run.open(config.run, config.trust, config.data.changed)
    report.write(run, device)
    print(run.path / "report.md", run.path / "report.html", sep="\n")
