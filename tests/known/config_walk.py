"""Every key of every config, and wrong values for it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from backdrift.cli import COMMANDS
from backdrift.evaluation.sampling import draw
from backdrift.models import Denoiser
from backdrift.runs.configuration import _compose, blamed, build, config_folder, hydra_configs
from backdrift.runs.kinds import MISSING, check_complete, check_read, leaves
from backdrift.runs.options import stated
from backdrift.runs.values import check_deletions, check_dictionary, check_values
from backdrift.sde import VP
from backdrift.training.rehearsal import NormalScore, rehearse

VALUES = (
    "null",
    "[1,2]",
    "[]",
    "{a:1}",
    "word",
    "''",
    "true",
    "nan",
    "inf",
    "-1",
    "0",
    "0.5",
    "1e30",
    "1" + 30 * "0",
    "~",
)
"""Values as they are written on a command line. The last one removes the key."""

GIVEN = {"noise": 0.1, "condition.columns": [1], "measurement.columns": [0]}
"""Keys that have to be given, with a value for them. All others are given a name."""


@dataclass(frozen=True)
class Composed:
    """A root config with one option of one group.

    Attributes:
        command: whose config it is.
        choice: the option, such as "sde=ve", or "" for the defaults.
        config: all values, those that have to be given among them.
    """

    command: str
    choice: str
    config: DictConfig


def compositions() -> Iterator[Composed]:
    """Each root config with its defaults, and with each option of each group that no command before it has."""
    seen: set[str] = set()
    for command in COMMANDS:
        yield composed(command, "")
        for group in groups(command):
            if group in seen:
                continue
            seen.add(group)
            for file in sorted((config_folder() / group).glob("*.yaml")):
                yield composed(command, f"{group}={file.stem}")


def composed(command: str, choice: str) -> Composed:
    """One root config with a choice."""
    with hydra_configs(None):
        config = _compose(command, [choice] if choice else [])
    for key, value in leaves(config).items():
        if value == MISSING:
            OmegaConf.update(config, key, GIVEN.get(key, "x"))
    return Composed(command, choice, config)


def groups(command: str) -> list[str]:
    """The config groups of a command, those inside groups among them."""
    with hydra_configs(None):
        _compose(command, [])
        chosen = dict(HydraConfig.get().runtime.choices)
    return [group for group in chosen if not group.startswith("hydra/") and "@" not in group]


def keys(commands: Iterator[Composed]) -> Iterator[tuple[Composed, str]]:
    """Every leaf of the compositions once: an argument of a class is one leaf, wherever the class is named."""
    seen: set[tuple[str, str]] = set()
    for one in commands:
        for key in leaves(one.config):
            group, _, name = key.rpartition(".")
            target = OmegaConf.select(one.config, f"{group}._target_", default=None) if group else None
            identity = (target or f"{one.command} {group}", name)
            if identity not in seen:
                seen.add(identity)
                yield one, key


def changed(one: Composed, key: str, written: str) -> DictConfig:
    """The config with a value in the place of a key's, as Hydra puts it there."""
    config = copy.deepcopy(one.config)
    override = OverridesParser.create().parse_override(f"{key}={written}")
    value: Any = override.value()
    check_dictionary(one.command, key, value, one.config)
    with open_dict(config):
        OmegaConf.update(config, key, value, merge=True)
    return config


def hold(one: Composed, key: str, written: str) -> DictConfig:
    """What a command line does with a value before anything is made; the config where the value may stand.

    Raises:
        ValueError: in one line, where it may not.
    """
    if written == "~":
        check_deletions(one.command, [key], one.config)
        config = copy.deepcopy(one.config)
        parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
        with open_dict(parent):
            parent.pop(key.rpartition(".")[2])
        return config
    config = changed(one, key, written)
    check_read(config, one.config)
    check_complete(config)
    check_values(one.command, config, one.config)
    return config


def is_stated(one: Composed, key: str) -> bool:
    """Whether a class or a command states what the key's value may be."""
    return key in stated(one.command, one.config)[0]


class Same(torch.nn.Module):
    """A network that returns what it is given."""

    def forward(self, z: torch.Tensor, c_noise: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return z


def make(config: DictConfig, key: str) -> None:
    """Make what a key's group describes, and try it on a normal density or on zeros, as a command does at first.

    Raises:
        ValueError: in one line, where that fails.
    """
    config = copy.deepcopy(config)
    group = key.split(".")[0]
    if "event" in config:
        sizes = {"classes": 2, "vector": 0, "picture": 0}
        config.event = {"shape": [1, 8, 8], "classes": 2, "std": 0.5, "condition": sizes}
    if group in ("sde", "likelihood") and "likelihood" in config and "sde" in config:
        rehearse(config, build(config, "sde"))
    elif group == "solver" and "_target_" in config.solver:
        try:
            draw(NormalScore(VP()), build(config, "solver"), (1,), 2, seed=0)
        except ValueError as error:
            raise blamed(config, "solver", error) from error
    elif group in ("sde", "sampler", "target") or (group == "model" and "event" in config):
        build(config, group)
    elif group == "train" and "event" in config:
        recipe = build(config, "train")
        recipe.optimizer([torch.nn.Parameter(torch.zeros(2))])
        if "Hybrid" not in type(recipe.loss).__name__:
            model = Denoiser(Same(), VP(), 0.5)
            loss = recipe.loss(model, torch.zeros(2, 2), torch.full((2,), 0.5, dtype=torch.float64), torch.zeros(2, 2))
            if not bool(loss.isfinite().all()):
                raise ValueError(f"train.loss: expected a finite loss of samples that are all 0, got {loss.tolist()}")
