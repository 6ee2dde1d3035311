"""Runs made by earlier versions, read as today's: their classes had other names."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from backdrift import models, sde, solvers
from backdrift.runs.trust import TARGETS

PACKAGES = {"sde": sde, "models": models, "solvers": solvers}
"""What were packages of their own before 0.2, by the name that they had."""

RENAMED = {"solvers.ProbabilityFlow": "backdrift.solvers.ScipyODE"}
"""Classes that have another name today."""

RENAMED_ARGUMENTS = {"backdrift.sde.CriticallyDamped": {"clock": "schedule"}}
"""Arguments that have another name today, by the class that takes them."""


def current_target(target: str) -> str:
    """Today's name of a class that we shipped under an older one. Any other name comes back as it is."""
    if target in RENAMED:
        return RENAMED[target]
    found = re.fullmatch(r"(sde|models|solvers)((?:\.\w+)*)\.(\w+)", target)
    if found is None:
        return target
    package, module, name = found.groups()
    if module == ".targets" and name in TARGETS:
        return f"backdrift.{target}"
    return f"backdrift.{package}.{name}" if name in PACKAGES[package].__all__ else target


def migrate(config: Any) -> None:
    """Rewrite, in place, every `_target_` of a config and the arguments that were renamed with it."""
    if isinstance(config, ListConfig):
        for value in config:
            migrate(value)
    if not isinstance(config, DictConfig):
        return
    target = config.get("_target_")
    if isinstance(target, str):
        with open_dict(config):
            config._target_ = current_target(target)
            for old, new in RENAMED_ARGUMENTS.get(config._target_, {}).items():
                if old in config:
                    config[new] = config.pop(old)
    for key in map(str, config):
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, key):
            migrate(config[key])
