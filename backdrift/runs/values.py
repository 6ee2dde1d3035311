"""The values of a config, held against the types that are stated for them.

This file imports torch, because the classes that a config names do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, is_typeddict

from omegaconf import DictConfig, ListConfig, OmegaConf

from backdrift.runs.comments import Key
from backdrift.runs.kinds import MISSING, leaves
from backdrift.runs.options import INSTRUCTIONS, stated
from backdrift.sde.value_types import accepts, expected, got, is_object


def check_values(command: str, config: DictConfig, defaults: DictConfig) -> None:
    """Hold every value against the type that its class or command states for it, see `backdrift.runs.options`.

    Where none is stated, as for a class of the user's own, the kind of the default decides. A whole number may stand
    where a number is expected. Two cases are then left to whoever takes the value: the default is null or refers to
    another key, or a number or a list comes where the default is text.

    Raises:
        ValueError: in one line that names the key, what was expected and what came.
    """
    kinds, _ = stated(command, config)
    known = leaves(defaults)
    for key, value in _values(config):
        default = known.get(key)
        default = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
        if key in kinds:
            if not _may_stand(kinds[key], value):
                raise ValueError(f"{key}: expected {in_words(kinds[key])}, got {shown(value)}")
        elif value is None or default is None or default == MISSING or isinstance(value, dict):
            continue
        elif not _same_kind(value, default):
            raise ValueError(f"{key}: expected {_kind(default)}, such as the default {default}, got {shown(value)}")


def with_types(command: str, config: DictConfig, explained: Mapping[Key, str]) -> dict[Key, str]:
    """The comments of values, each followed by what the value may be, in brackets.

    Args:
        command: whose config it is.
        config: all values.
        explained: the comment of each, by the keys that lead to it.
    """
    found, present = dict(explained), leaves(config)
    for name, kind in stated(command, config)[0].items():
        path = tuple(name.split("."))
        if is_typeddict(kind) or path[-1] in INSTRUCTIONS or name not in present:
            continue
        comment, words = found.get(path, ""), in_words(kind)
        found[path] = f"{comment} ({words})" if comment else words
    return found


def check_dictionary(command: str, key: str, value: Any, defaults: DictConfig) -> None:
    """Refuse a dictionary where the default is a list. Hydra would merge the two, and say so in words of its own.

    Raises:
        ValueError: naming the key.
    """
    default = OmegaConf.select(defaults, key, throw_on_resolution_failure=False)
    if isinstance(value, dict) and isinstance(default, ListConfig):
        kinds, _ = stated(command, defaults)
        words = in_words(kinds[key]) if key in kinds else "a list"
        raise ValueError(f"{key}: expected {words}, got {shown(value)}")


def check_deletions(command: str, deleted: Iterable[str], defaults: DictConfig) -> None:
    """Refuse to remove a key that the command reads, or that its class has no default for.

    Raises:
        ValueError: naming the key.
    """
    _, needed = stated(command, defaults)
    for name in deleted:
        if name in needed:
            raise ValueError(f"{name}: expected a value, as the key cannot be removed, got ~{name}")


def _values(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config with its value as plain data. A group is a dictionary, and its own keys come after it.

    What refers to another key, or is missing, is left out.
    """
    for name in map(str, node):
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        full, value = f"{prefix}{name}", node[name]
        plain = OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
        if not (isinstance(plain, list) and any(isinstance(one, str) and "${" in one for one in plain)):
            yield full, plain
        if isinstance(value, DictConfig):
            yield from _values(value, f"{full}.")


def _may_stand(kind: Any, value: Any) -> bool:
    """Whether a value of a config is of a type. Keys with a `_target_` stand for the object that is made of them."""
    if is_typeddict(kind):
        return isinstance(value, dict)
    if isinstance(value, dict):
        return is_object(kind) and "_target_" in value
    return accepts(kind, value)


def in_words(kind: Any) -> str:
    """A type in words, with the names that yaml has for values."""
    words = "keys" if is_typeddict(kind) else expected(kind, "keys with a _target_")
    for python, yaml_word in (("None", "null"), ("True", "true"), ("False", "false")):
        words = re.sub(rf"\b{python}\b", yaml_word, words)
    return words


def shown(value: Any) -> str:
    """A value as it would be written on a command line, cut where it is long."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{name}: {shown(one)}" for name, one in value.items()) + "}"
    elif isinstance(value, list):
        text = f"[{', '.join(map(shown, value))}]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = got(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, str):
        return isinstance(value, (str, int, float, list))
    if isinstance(default, list):
        elements = default[:1]
        return isinstance(value, list) and all(
            _same_kind(one, element) for one in value for element in elements if element is not None
        )
    return isinstance(value, type(default))


def _kind(default: Any) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list"}
    return next((name for kind, name in names.items() if isinstance(default, kind)), "a group of keys")
