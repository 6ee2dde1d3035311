"""The device that a command or a call asks for, found or refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import torch

AUTO = "auto"
"""The accelerator that is there, else the CPU."""

NAME = re.compile(r"cpu|(cuda|mps|xpu)(:(0|[1-9][0-9]{0,2}))?")
"""The names of devices."""


@dataclass(frozen=True)
class NamesDevice:
    """A text that may be the name of a device, whether or not this machine has it."""

    def holds(self, value: object) -> bool:
        return isinstance(value, str) and (value == AUTO or NAME.fullmatch(value) is not None)

    def words(self, noun: str) -> str:
        return "auto, cpu, cuda, mps, xpu or one of several by its number, such as cuda:1"


DeviceName = Annotated[str, NamesDevice()]
"""What the key `device` may be."""


def device_named(name: torch.device | str) -> torch.device:
    """The device of that name.

    Args:
        name: "auto" for the accelerator that is there, else the CPU; "cpu", "cuda", "mps" or "xpu"; "cuda:1" for one of
            several. A `torch.device` is taken as it is, so that a model can be loaded onto "meta" as well.

    Raises:
        ValueError: if this is no name of a device, or this machine has no such device.
    """
    if isinstance(name, torch.device):
        return name
    if not NamesDevice().holds(name):
        raise ValueError(f"device: expected {NamesDevice().words('text')}, got {name!r}")
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == AUTO:
        return here or torch.device("cpu")
    asked = torch.device(name)
    if asked.type == "cpu":
        return asked
    if here is None or asked.type != here.type:
        there = "the CPU alone" if here is None else f"{here.type} and the CPU"
        raise ValueError(
            f"device={name}: there is no such device, this machine has {there}; device=auto takes what is there"
        )
    count = torch.accelerator.device_count()
    if asked.index is not None and asked.index >= count:
        raise ValueError(f"device={name}: there is no such device, the highest number here is {here.type}:{count - 1}")
    return asked
