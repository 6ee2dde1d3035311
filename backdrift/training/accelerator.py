"""accelerate, which says the device of a training and the number of its processes, told what is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from backdrift.runs.device import AUTO, device_named
from backdrift.runs.processes import number_of_processes

VARIABLE = "ACCELERATE_TORCH_DEVICE"
"""By this variable accelerate takes a device by its number. It has no argument for that."""


def accelerator_on(name: str, mixed_precision: str | None = None) -> Accelerator:
    """accelerate's object for a device.

    Args:
        name: the value of the key `device`. "auto" leaves the choice to accelerate and its launcher.
        mixed_precision: as accelerate takes it.

    Raises:
        ValueError: if there is no such device, it is a CPU and fp16 is asked for, several processes are asked to share
            one, or accelerate was told to take another.
    """
    asked, several = device_named(name), number_of_processes() > 1
    if several and asked.index is not None:
        raise ValueError(
            f"device={name}: expected a device without a number, as each of several processes takes its own"
        )
    if not several:
        # accelerate keeps its device for the whole process; the next job of a sweep may ask for another.
        AcceleratorState._reset_state(reset_partial_state=True)
    with _by_number(None if asked.index is None else name):
        # Without cpu=True accelerate would let the processes of a launcher for CPUs train alone.
        accelerator = Accelerator(cpu=asked.type == "cpu", mixed_precision=mixed_precision)
    taken = accelerator.device
    if name != AUTO and (taken.type != asked.type or asked.index not in (None, taken.index)):
        raise ValueError(f"device={name}: accelerate takes {taken}; its launcher or its environment variables say so")
    if taken.type == "cpu" and accelerator.mixed_precision == "fp16":  # accelerate would take float32 without a word
        key = "train." if mixed_precision == "fp16" else "accelerate is set to "
        raise ValueError(
            f"{key}mixed_precision=fp16: a CPU does not compute in it; take train.mixed_precision=no, bf16 or auto"
        )
    if taken.type == "cuda" and taken.index is not None:
        torch.cuda.set_device(taken)  # for code that says "cuda" without a number
    return accelerator


@contextmanager
def _by_number(name: str | None) -> Iterator[None]:
    """Have accelerate take a device by its number, if one is given."""
    before = os.environ.get(VARIABLE)
    if name is not None:
        os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if name is not None:
            del os.environ[VARIABLE]
            if before is not None:
                os.environ[VARIABLE] = before
