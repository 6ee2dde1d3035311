"""`config.yaml` of a run folder, read as what it may be: a small file of plain values, perhaps a stranger's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdrift.runs.atomic import write_text

NAME = "config.yaml"

PARTS = ("sde", "model", "data", "train")
"""Keys that describe the objects of every run."""

MOST_COMPONENTS, MOST_CLASSES = 10**9, 10**6
"""The largest sample, and the largest number of classes, that a run folder may announce."""

LARGEST, DEEPEST, MOST_ENTRIES = 256_000, 50, 5_000
"""Bytes of a file, levels of nesting, and words and numbers that are read. Ours have some 3,000, five and 200."""


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


def require_training(config: DictConfig, folder: Path) -> None:
    """Check what every command takes from the config of a run without making an object of it.

    Raises:
        ValueError: naming the key, if a part is missing or a value is of the wrong kind.
    """
    plain: Any = OmegaConf.to_container(config)
    for part in PARTS:
        if not isinstance(plain.get(part), dict) or "_target_" not in plain[part]:
            raise ValueError(f"run={folder}: in its {NAME} {part} describes no object")
    event = plain["event"] if isinstance(plain["event"], dict) else {}
    shape, classes, std = (event.get(name) for name in ("shape", "classes", "std"))
    lengths = shape if isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape) else []
    if not 0 < math.prod(lengths) <= MOST_COMPONENTS or not lengths:
        raise _wrong(folder, "event.shape", f"lengths whose product is at most {MOST_COMPONENTS}", shape)
    if type(classes) is not int or not 0 <= classes <= MOST_CLASSES:
        raise _wrong(folder, "event.classes", f"a whole number from 0 to {MOST_CLASSES}", classes)
    if isinstance(std, bool) or not isinstance(std, (int, float)) or not 0 < std < math.inf:
        raise _wrong(folder, "event.std", "a positive number", std)
    steps = plain["train"].get("steps")
    if type(steps) is not int or steps < 0:
        raise _wrong(folder, "train.steps", "a whole number from 0", steps)


def _wrong(folder: Path, key: str, expected: str, value: object) -> ValueError:
    return ValueError(f"run={folder}: in its {NAME} {key}: expected {expected}, got {str(value)[:80]}")


def write(folder: Path, config: DictConfig) -> None:
    """Write the config of a run in place of the one that is there. The file is whole at every moment."""
    write_text(folder / NAME, OmegaConf.to_yaml(config, resolve=True))


def _require_plain(text: str, folder: Path) -> None:
    """Raise `ValueError` for aliases, deep nesting and many entries, before anything is made of the text."""
    depth = entries = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        entries += isinstance(event, yaml.ScalarEvent)
        if entries > MOST_ENTRIES:
            raise ValueError(f"run={folder}: its {NAME} has more than {MOST_ENTRIES} words and numbers")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"run={folder}: its {NAME} has an alias, *{event.anchor}; expected plain values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"run={folder}: its {NAME} is nested too deeply, expected at most {DEEPEST} levels")
