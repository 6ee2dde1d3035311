"""`config.yaml` of a run folder, read as what it may be: a small file of plain values, perhaps a stranger's."""

from __future__ import annotations

from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdrift.runs.atomic import write_text

NAME = "config.yaml"

LARGEST, DEEPEST = 256_000, 50
"""Bytes of a file and levels of nesting that are read. Ours have some 3,000 bytes and five levels."""


def read(folder: Path) -> DictConfig:
    """The config of a run.

    Raises:
        ValueError: in one line, if there is no such file, it is too large, has aliases (a few lines of which can stand
            for millions), is nested too deeply, is damaged, or is not that of a training run.
    """
    file = folder / NAME
    if not file.is_file():
        raise ValueError(f"run={folder}: not a run folder (it has no {NAME})")
    if file.stat().st_size > LARGEST:
        raise ValueError(f"run={folder}: its {NAME} has {file.stat().st_size} bytes, expected at most {LARGEST}")
    try:
        _require_plain(file.read_text(encoding="utf-8"), folder)
        config = OmegaConf.load(file)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"run={folder}: its {NAME} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, DictConfig) or "event" not in config:
        raise ValueError(f"run={folder}: its {NAME} is not that of a training run")
    return config


def write(folder: Path, config: DictConfig) -> None:
    """Write the config of a run in place of the one that is there. The file is whole at every moment."""
    write_text(folder / NAME, OmegaConf.to_yaml(config, resolve=True))


def _require_plain(text: str, folder: Path) -> None:
    """Raise `ValueError` for aliases and deep nesting, before anything is made of the text."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"run={folder}: its {NAME} has an alias, *{event.anchor}; expected plain values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"run={folder}: its {NAME} is nested too deeply, expected at most {DEEPEST} levels")
