"""A model that was exported: its weights, a config and a card, read with torch, numpy and safetensors alone.

The folder is data, as a run folder is: see `runs.trust`.
"""

from __future__ import annotations

import functools
import json
import math
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from backdrift.data.card import DataCard
from backdrift.data.fingerprint import sha256_of
from backdrift.runs.trust import require_plain_files, require_trusted
from backdrift.runs.weight_limit import at_most

CONFIG, WEIGHTS = "config.json", "model.safetensors"

FORMAT, VERSION = "backdrift-model", 1
"""What `config.json` holds under `format` and `version`."""

KEYS = {
    "format",
    "version",
    "backdrift",
    "network",
    "sde",
    "preconditioning",
    "data_std",
    "card",
    "sha256",
    "provenance",
}
"""The keys of `config.json`."""

LARGEST = 16_000_000
"""Bytes of a `config.json` that is read. Moments and names of some 10,000 components have a tenth of them."""


def is_export(folder: Path) -> bool:
    """Whether a folder holds an exported model, and not a run."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() and not (folder / "config.yaml").exists()


def read(folder: Path, device: torch.device, trust: Sequence[str] = ()) -> tuple[Any, DataCard]:
    """The model of a folder that `backdrift export` wrote, in evaluation mode, and the card of its data.

    Args:
        folder: where it is.
        device: where the model goes.
        trust: packages whose classes the folder may name, besides ours and the listed ones of torch and diffusers.

    Raises:
        ValueError: in one line, if the folder is damaged, was written by a newer version, or names a class that is not
            trusted.
    """
    require_plain_files(folder)
    values = _config(folder)
    require_trusted(values, folder, trust, CONFIG)
    network = _network(folder, values)
    try:
        model = make(values["preconditioning"])(network, make(values["sde"]), float(values["data_std"]))
        card = DataCard.from_dict(values["card"])
    except (ValueError, TypeError) as error:
        raise _damaged(folder, CONFIG, error) from error
    model.data_moments = card.moments
    if card.conditions is not None:
        model.condition_moments = card.conditions.moments
    return model.to(device).eval().requires_grad_(False), card


def make(values: Any) -> Any:
    """The object that a config describes by `_target_`, as Hydra makes it; plain values as they are.

    With `_partial_` it is the class with some of its arguments. The names have to be checked before, see `trust`.

    Raises:
        ValueError: in one line, if there is no such class, or it refuses its arguments.
    """
    if isinstance(values, list):
        return [make(value) for value in values]
    if not isinstance(values, dict):
        return values
    arguments = {name: make(value) for name, value in values.items() if not name.startswith("_")}
    if "_target_" not in values:
        return arguments
    try:
        made = pkgutil.resolve_name(str(values["_target_"]))  # a class, or a method of one such as Discrete.linear
        return functools.partial(made, **arguments) if values.get("_partial_") else made(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{values['_target_']}: {what}") from error


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if file.stat().st_size > LARGEST:
        raise _damaged(folder, CONFIG, f"it has {file.stat().st_size} bytes, expected at most {LARGEST}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, CONFIG, error) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _damaged(folder, CONFIG, f"expected the format {FORMAT}")
    if values.get("version") != VERSION:
        raise ValueError(
            f"run={folder}: its {CONFIG} is of version {values.get('version')}, this backdrift reads version "
            f"{VERSION}; use a newer one"
        )
    if values.keys() != KEYS:
        raise _damaged(folder, CONFIG, f"expected the keys {', '.join(sorted(KEYS))}")
    std = values["data_std"]
    if isinstance(std, bool) or not isinstance(std, (int, float)) or not 0 < std < math.inf:
        raise _damaged(folder, CONFIG, f"data_std: expected a positive number, got {str(std)[:80]}")
    return values


def _network(folder: Path, values: dict[str, Any]) -> nn.Module:
    """The network with its weights, which have to be those that were written, and finite."""
    file = folder / WEIGHTS
    if sha256_of(file) != values["sha256"]:
        raise _damaged(folder, WEIGHTS, "its checksum is another than when it was written")
    try:
        with safe_open(file, "pt") as opened:
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        with at_most(shapes):
            network = make(values["network"])
        if not isinstance(network, nn.Module):
            raise ValueError(f"network: expected a network, got {type(network).__name__}")
        network.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise _damaged(folder, WEIGHTS, error) from error
    for name, value in network.named_parameters():
        if not bool(value.isfinite().all()):
            raise _damaged(folder, WEIGHTS, f"it holds NaN or infinite values, the first in {name}")
    return network


def _damaged(folder: Path, name: str, error: Exception | str) -> ValueError:
    why = (str(error).splitlines() or ["it is empty"])[0][:300]
    return ValueError(f"run={folder}: its {name} is damaged: {why}")
