"""The data set of a config, with the conditions of its samples."""

from __future__ import annotations

from omegaconf import DictConfig

from backdrift.data import Data
from backdrift.data.condition_choice import ConditionChoice
from backdrift.runs.configuration import build


def load_data(config: DictConfig) -> Data:
    """The data set that the groups `data` and `condition` describe. Configs of older runs have no `condition`.

    Raises:
        ValueError, FileNotFoundError: if one of them cannot be made.
    """
    data: Data = build(config, "data")
    if "condition" not in config:
        return data
    choice: ConditionChoice = build(config, "condition")
    return choice.of(data)
