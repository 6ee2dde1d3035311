"""A network of a run folder, made without taking more time or memory than its weights need."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from torch import nn

from backdrift.runs.checkpoint import Checkpoint
from backdrift.runs.configuration import build
from backdrift.runs.weight_limit import TooLarge, at_most


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
    with at_most(shapes) as exceeded:
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
