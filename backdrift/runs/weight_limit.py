"""A network from a stranger's config is given up as soon as it asks for far more weights than its file holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

SLACK = 4
"""A network may register so many times the weights that it ends with, as weight normalisation does."""


class TooLarge(ValueError):
    """A network asks for more weights than its checkpoint holds."""


@contextmanager
def at_most(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
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
