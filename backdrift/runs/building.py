"""A network of a run folder, made without taking more time or memory than its weights need."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from omegaconf import DictConfig
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from backdrift.runs.checkpoint import Checkpoint
from backdrift.runs.configuration import build

SLACK = 4
"""A network may register so many times the weights that it ends with, as weight normalisation does."""


class TooLarge(ValueError):
    """A network asks for more weights than its checkpoint holds."""


class NoNetwork(ValueError):
    """What a config describes as its model is not a network."""


def build_network(config: DictConfig, kept: Checkpoint, weights: str) -> nn.Module:
    """The network that `config.model` describes, with the weights of a checkpoint.

    It is first made on the device "meta", where it takes no memory, and its shapes are compared with those in the file.
    In both cases it is given up at once where it asks for more than the file holds.

    Args:
        config: of the run.
        kept: the checkpoint.
        weights: "ema" or "model".

    Raises:
        ValueError: in one line, if the network cannot be made, or the weights are not its own or not finite.
        Damaged: if the checkpoint is damaged.
        OSError: if it cannot be read.
    """
    require_fit(config, kept, weights)
    network = _build(config, kept, kept.shapes(weights))
    kept.load(network, weights)
    return network


def require_fit(config: DictConfig, kept: Checkpoint, weights: str) -> None:
    """Compare the network that `config.model` describes with the head of a checkpoint's file.

    Raises:
        ValueError, Damaged, OSError: as `build_network` does.
    """
    shapes = kept.shapes(weights)
    with torch.device("meta"):
        try:
            planned = _build(config, kept, shapes)
        except (TooLarge, NoNetwork):
            raise
        except (ValueError, NotImplementedError):  # a network that computes while it is made
            return
    kept.require_fit(planned, weights)


def _build(config: DictConfig, kept: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    with _at_most(shapes) as exceeded:
        try:
            network: nn.Module = build(config, "model")
        except ValueError as error:
            if exceeded:
                raise TooLarge(
                    f"{kept.path}: not the weights of the config's network, which asks for more than the "
                    f"{len(shapes)} weights in the file"
                ) from error
            raise
    if not isinstance(network, nn.Module):
        raise NoNetwork(f"model: expected a network, got {type(network).__name__}")
    return network


@contextmanager
def _at_most(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """Stop the making of a network as soon as it registers far more parameters than `shapes` has.

    Yields:
        A list to which the name of the parameter that was too much is added.
    """
    exceeded: list[str] = []
    count, largest, thread = 0, SLACK * len(shapes) + 1, threading.get_ident()
    elements = SLACK * sum(torch.Size(shape).numel() for shape in shapes.values()) + 1

    def check(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() != thread:  # the hook sees the modules of all threads
            return
        count += 1
        if count > largest or parameter.numel() > elements:
            exceeded.append(name)
            raise ValueError("more weights than the file holds")

    handle = register_module_parameter_registration_hook(check)
    try:
        yield exceeded
    finally:
        handle.remove()
