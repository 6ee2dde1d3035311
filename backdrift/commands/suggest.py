"""Suggest a process and its noise levels for a data set, with the reasons."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdrift.data import Data
from backdrift.evaluation.suggestion import suggest
from backdrift.runs.atomic import write_text
from backdrift.runs.configuration import build, config_folder
from backdrift.runs.provenance import Provenance


def main(config: DictConfig) -> None:
    """Print a suggestion for `data`, in the units that the model works in, and the command that takes it.

    With `save`, the process is written as `<save>/sde/suggested.yaml` as well.
    """
    data: Data = build(config, "data")
    units = data.units
    found = suggest(units.standardised(data.train), config.seed)
    chosen = found.overrides()
    if config.save is not None:
        file = Path(config.save).expanduser() / "sde" / "suggested.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        provenance = Provenance.now(None, "backdrift suggest", config.seed)
        write_text(file, provenance.comment() + OmegaConf.to_yaml(OmegaConf.create(found.config())))
        chosen = ["--config-dir", config.save, "sde=suggested"]
    own = data.levels is None and bool((units.scale == 1).all()) and bool((units.shift == 0).all())
    map_to = "the data's own" if own else "(v - shift)/scale of data v"
    if units.transform is not None:
        map_to = "(h(v) - shift)/scale of data v with maps h of its columns"
    print(f"{data}\nin the model's units, {map_to}: {found}\n")
    print(shlex.join(["backdrift", "train", f"data={config.name}", *_changed(config), *chosen]))


def _changed(config: DictConfig) -> list[str]:
    """The keys of the data set's config that the user changed, as overrides."""
    file = config_folder() / "data" / f"{config.name}.yaml"
    default: Any = OmegaConf.load(file) if file.exists() else {}
    return [f"data.{key}={value}" for key, value in config.data.items() if value != default.get(key, None)]
