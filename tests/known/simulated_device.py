"""A device without hardware, `sim:0`: its tensors are computed on the host, but behave like those of an accelerator.

Operations that mix it with the host are refused as CUDA refuses them. What an accelerator's host would wait for is
counted: values that are read (`.item()`, `bool`, `.cpu()`), lengths that depend on values (`nonzero`, a boolean mask),
and copies to the device that are not `non_blocking`. It rests on an experimental interface of torch, which this file
alone uses.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import Library
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "sim"

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"}
"""Operations whose result the host has to know."""

COPIES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize"}
"""Operations that may take tensors of two devices."""

INDEXING = {"aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
"""Operations that take indices of the host and send them."""


class Machine:
    """What torch asks of a device's module: `torch.accelerator` sees the device while `is_here`."""

    is_here = False

    def is_available(self) -> bool:
        return self.is_here

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


MACHINE = Machine()
WAITS: Counter[str] = Counter()
"""How often the host would have waited, by the operation and the line of ours that asked for it."""


class Simulated(Tensor):
    """A tensor of the device. Its numbers are in `inner`, on the host."""

    inner: Tensor  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> Simulated:
        made: Any = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Simulated({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _call(func, args, kwargs or {})


def _mapped(change: Callable[[Any], Any], values: Any) -> Any:
    """Arguments or results of an operation, changed one by one. torch's own `tree_map` takes five times as long."""
    if isinstance(values, (list, tuple)):
        made = [_mapped(change, each) for each in values]
        return made if isinstance(values, list) else tuple(made)
    return change(values)


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on the host, and give its result back on the device that it belongs to."""
    name = func._schema.name
    held: list[Tensor] = []
    wrappers: dict[int, Simulated] = {}

    def unwrapped(value: Any) -> Any:
        if isinstance(value, Tensor):
            held.append(value)
        if isinstance(value, Simulated):
            wrappers[id(value.inner)] = value
            return value.inner
        return value

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return wrappers[id(value)] if id(value) in wrappers else Simulated(value)

    plain_args = _mapped(unwrapped, args)
    plain = {key: _mapped(unwrapped, value) for key, value in kwargs.items()}
    asked, generator = kwargs.get("device"), kwargs.get("generator")
    ends_on_host = asked is not None and torch.device(asked).type == "cpu"
    _refuse_mixed(func, name, held)
    _count(func, name, args, kwargs, held, ends_on_host)
    if generator is not None and not ends_on_host:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{generator.device.type}'")
    if asked is not None:
        plain["device"] = torch.device("cpu")
    if name == "aten::_efficientzerotensor":  # forward mode makes zeros without memory, which our operations would read
        func = torch.ops.aten.zeros.default
    result = func(*plain_args, **plain)
    if name == "aten::_to_copy" and any(result is value for value in plain_args):
        result = result.clone()
    if ends_on_host or (name == "aten::copy_" and not isinstance(held[0], Simulated)):
        return result
    return _mapped(wrapped, result)


def _refuse_mixed(func: Any, name: str, held: list[Tensor]) -> None:
    """Refuse tensors of the host beside those of the device, except for single numbers in element-wise operations."""
    if name in COPIES or not any(isinstance(tensor, Simulated) for tensor in held):
        return
    for tensor in held:
        if isinstance(tensor, Simulated) or tensor.device.type != "cpu":
            continue
        single = tensor.ndim == 0 and torch.Tag.pointwise in func.tags
        if not single and not name.startswith(("aten::index", "aten::_index_put_impl_")):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
                f"({name}, {list(tensor.shape)})"
            )


def _count(func: Any, name: str, args: Any, kwargs: Any, held: list[Tensor], ends_on_host: bool) -> None:
    """Count what the host would wait for."""
    on_device = [isinstance(tensor, Simulated) for tensor in held]
    waits = name in READS
    if name in COPIES:
        blocking = not (kwargs.get("non_blocking") or (name == "aten::copy_" and True in args[2:3]))
        crosses = (held and on_device[0] == ends_on_host) if name == "aten::_to_copy" else len(set(on_device)) == 2
        to_host = ends_on_host or (name == "aten::copy_" and not on_device[0])
        waits = (
            bool(crosses)
            and (blocking or to_host)
            and "device" in (*kwargs, *(["device"] if name != "aten::_to_copy" else []))
        )
    elif name.startswith("aten::index") and len(held) > 1:
        waits = any(
            not here or tensor.dtype == torch.bool for here, tensor in zip(on_device[1:], held[1:], strict=True)
        )
    if waits:
        WAITS[f"{name} {_place()}"] += 1


def _place() -> str:
    """The innermost line of ours in the stack, such as "backdrift.solvers.flows.flow:42"."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("backdrift."):
            return f"{frame.f_globals['__name__']}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def _registered() -> Library | None:
    """Make the device known to torch, once in a process and before its first gradient; None if torch cannot do that."""
    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        return None
    setup(NAME, MACHINE)
    library = Library("_", "IMPL", "PrivateUse1")
    library.fallback(lambda func, *args, **kwargs: _call(func, args, kwargs))
    return library


ENABLED = os.environ.get("BACKDRIFT_SIMULATED_DEVICE") == "1"
"""Whether the device is registered. It then is for the whole process, where other tests would meet it."""

_library = _registered() if ENABLED else None

needs_simulation = pytest.mark.skipif(
    not ENABLED, reason="registers a device for the process; run alone with BACKDRIFT_SIMULATED_DEVICE=1"
)


class _NewTensors(TorchFunctionMode):
    """Tensors of numbers of the host are made there and sent, as CUDA does. torch cannot make them on such a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], Simulated) and "device" not in kwargs:
            kwargs = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            func, args = torch.tensor, args[1:]
        if func is Tensor.tolist and isinstance(args[0], Simulated):
            return args[0].cpu().tolist()
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is None and not isinstance(args[0], Tensor):
            kwargs["device"] = torch.get_default_device()
        asked = kwargs.get("device")
        if func not in (torch.tensor, torch.as_tensor) or asked is None or torch.device(asked).type != NAME:
            return func(*args, **kwargs)
        if isinstance(args[0], Tensor):
            return args[0].to(asked, kwargs.get("dtype"))
        return func(*args, **{**kwargs, "device": "cpu"}).to(asked)


class _Factories(TorchDispatchMode):
    """New tensors of the device are made whole. torch itself would make an empty one and have it grow."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = (kwargs or {}).get("device")
        if asked is not None and torch.device(asked).type == NAME:
            return _call(func, args, kwargs)
        return func(*args, **(kwargs or {}))


@contextmanager
def simulated() -> Iterator[Counter[str]]:
    """Make the device usable inside of the block, and count what the host waits for."""
    if _library is None:
        pytest.skip("this version of torch cannot simulate a device")
    WAITS.clear()
    with _NewTensors(), _Factories():
        yield WAITS
