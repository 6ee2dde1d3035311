"""The suite on another device: `BACKDRIFT_TEST_DEVICE=cuda pytest` makes it the default of torch."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

VARIABLE = "BACKDRIFT_TEST_DEVICE"

DRAWS = (torch.randn, torch.rand, torch.randint, torch.randperm)


class HostGenerators(TorchFunctionMode):
    """Tests draw their data by generators of the host. On another device they get the same numbers, sent there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if func in DRAWS and kwargs.get("device") is None and generator is not None:
            return func(*args, **{**kwargs, "device": generator.device}).to(torch.get_default_device())
        return func(*args, **kwargs)


@pytest.fixture(autouse=True, scope="session")
def default_device() -> Iterator[None]:
    name = os.environ.get(VARIABLE)
    if name is None:
        yield
        return
    torch.set_default_device(name)
    with HostGenerators():
        yield
    torch.set_default_device(None)
