"""Suggest a process and its noise levels for a data set, with the reasons."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdrift.evaluation.suggestion import suggest
from backdrift.runs.configuration import build, config_folder


def main(config: DictConfig) -> None:
    """Print the suggestion for `data`, in the units the model works in, and the command that takes it; with
    `save`, write the process as `<save>/sde/suggested.yaml`."""
    data = build(config, "data")
    found = suggest((data.train.double() - data.units.shift) / data.units.scale, config.seed)
    chosen = found.overrides()
    if config.save is not None:
        file = Path(config.save).expanduser() / "sde" / "suggested.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(found.config()), file)
        chosen = ["--config-dir", config.save, "sde=suggested"]
    units = (
        "the data's own"
        if data.levels is None and bool((data.units.scale == 1).all())
        else "(v - shift)/scale of data v"
    )
    print(f"{data}\nin the model's units, {units}: {found}\n")
    print(shlex.join(["backdrift", "train", f"data={config.name}", *_changed(config), *chosen]))


def _changed(config: DictConfig) -> list[str]:
    """What the user changed in the data set's config, as overrides."""
    file = config_folder() / "data" / f"{config.name}.yaml"
    default: Any = OmegaConf.load(file) if file.exists() else {}
    return [f"data.{key}={value}" for key, value in config.data.items() if value != default.get(key, None)]
