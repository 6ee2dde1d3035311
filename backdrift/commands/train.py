"""Train a model on a data set, then draw samples, score the test set and write a report."""

from __future__ import annotations

from omegaconf import DictConfig

from backdrift.training.completion import train_new
from backdrift.training.trainer import Trainer


def main(config: DictConfig) -> float | None:
    """Train into a new run folder; the held-out loss, which a sweep makes small (None in processes but the first)."""
    return train_new(Trainer(config))[1]
