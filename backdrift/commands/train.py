"""Train a model on a data set, then draw samples, score the test set and write a report."""

from __future__ import annotations

from omegaconf import DictConfig

from backdrift.training.completion import complete
from backdrift.training.trainer import Trainer


def main(config: DictConfig) -> None:
    """Train into a new run folder."""
    trainer = Trainer(config)
    complete(trainer, trainer.new_run())
