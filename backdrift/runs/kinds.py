"""The keys of a config, held against those of its defaults."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

MISSING = "???"
"""How OmegaConf writes a value that has to be given."""


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of a config by its full key, such as `train.steps`. A value that refers to another is None."""
    if not isinstance(config, DictConfig):
        return {prefix: config}
    found: dict[str, Any] = {}
    for key in map(str, config):
        full = f"{prefix}.{key}" if prefix else key
        if OmegaConf.is_missing(config, key):
            found[full] = MISSING
        elif OmegaConf.is_interpolation(config, key):
            found[full] = None
        else:
            found |= leaves(config[key], full)
    return found


ARGUMENTS = ("likelihood",)
"""Groups of keys that are passed on as the arguments of a function, besides those with a `_target_`."""


def takes_more(key: str, config: DictConfig) -> bool:
    """Whether a key that the defaults do not have would reach something that reads it or refuses it.

    That is so for the arguments of an object that is made (a group with a `_target_`) and of a function. Nobody reads
    any other key.
    """
    parts = key.split(".")
    if parts[0] in ARGUMENTS and len(parts) > 1:
        return True
    above = (OmegaConf.select(config, ".".join(parts[:length])) for length in range(1, len(parts)))
    return any(isinstance(node, DictConfig) and "_target_" in node for node in above)


def check_read(config: DictConfig, defaults: DictConfig) -> None:
    """Compare the keys of a config with those of its defaults.

    Raises:
        ValueError: for a key that nobody reads.
    """
    known = leaves(defaults)
    for key in leaves(config):
        parts = key.split(".")
        prefixes = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        # A default that is null, or was given as a whole, may be a group of keys. A value in the place of a group is
        # refused with the other values.
        replaced = isinstance(OmegaConf.select(defaults, key, throw_on_resolution_failure=False), DictConfig)
        if not replaced and not prefixes & known.keys() and not takes_more(key, config):
            raise ValueError(f"{key}: nobody reads such a key; backdrift COMMAND --help lists those that are read")


def check_complete(config: DictConfig) -> None:
    """Raise `ValueError` if a value that has to be given is missing."""
    for key, value in leaves(config).items():
        if isinstance(value, str) and value == MISSING:
            raise ValueError(f"{key} is missing: add {key}=…")
