"""The kind of every value of a config, held against the kind of its default."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

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


def check_kinds(config: DictConfig, defaults: DictConfig) -> None:
    """Compare the kind of every value with the kind of its default.

    A whole number may stand where a number is expected. Three cases are left to whoever takes the value: the
    default is null, the default refers to another key, or a number or a list comes where the default is text
    (`name=7`, `eps=0.01` where the default is "auto", the times of a grid where the default is its name).

    Raises:
        ValueError: naming the key, the value and what was expected.
    """
    expected = leaves(defaults)
    for key, value in leaves(config).items():
        default = expected.get(key)
        if value is None or default is None or MISSING in (value, default):
            continue
        if not _same_kind(value, default):
            shown = value if isinstance(value, (str, bool, int, float)) else OmegaConf.to_container(value)
            shown = "{…}" if isinstance(shown, dict) else shown
            raise ValueError(f"{key}={shown}: expected {_kind(default)}, such as the default {default}")


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
        # A default that is null, or was given as a whole, may be a group of keys.
        if not prefixes & known.keys() and not takes_more(key, config):
            raise ValueError(f"{key}: nobody reads such a key; backdrift COMMAND --help lists those that are read")


def check_complete(config: DictConfig) -> None:
    """Raise `ValueError` if a value that has to be given is missing."""
    for key, value in leaves(config).items():
        if isinstance(value, str) and value == MISSING:
            raise ValueError(f"{key} is missing: add {key}=…")


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, str):
        return isinstance(value, (str, int, float, ListConfig))
    if isinstance(default, ListConfig):
        return isinstance(value, ListConfig) and all(
            _same_kind(element, default[0]) for element in value if len(default) > 0 and default[0] is not None
        )
    return isinstance(value, type(default))


def _kind(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", ListConfig: "a list"}
    return next((name for kind, name in names.items() if isinstance(default, kind)), "a group of keys")
