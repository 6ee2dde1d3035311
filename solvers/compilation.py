"""Functions of tensors as one compiled graph, and what is said where that is not possible."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, Generic, ParamSpec, cast

import torch
from torch import Tensor

BACKEND: str | Callable[..., Any] = "inductor"
"""What makes machine code of a graph, as `torch.compile` takes it."""

Arguments = ParamSpec("Arguments")


def compiled_once(part: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """A part of a function, marked as one that occurs many times in its graph and needs to be compiled only once.

    A loop of 4 calls of a small U-Net took 58 s to compile with the mark and 234 s without it. Versions of torch before
    2.8 have no such mark, and compile every occurrence.
    """
    mark = getattr(torch.compiler, "nested_compile_region", None)
    return part if mark is None else mark(part)


class CompiledFunction(Generic[Arguments]):
    """A function with a tensor as its value, compiled into one graph without a break at its first call.

    It is compiled again for arguments of another structure, shape or dtype, and keeps what it has compiled.

    Args:
        function: the function. It may have a closure, and its arguments may hold models.
        device: of its tensors. On CUDA the graph is captured (mode "reduce-overhead" of `torch.compile`), so that one
            launch starts all of it.
        dynamic: as `torch.compile` takes it: False for a graph for each shape, None for one that serves several batch
            sizes once there are several.
    """

    def __init__(
        self, function: Callable[Arguments, Tensor], device: torch.device, dynamic: bool | None = False
    ) -> None:
        self.function, self.captured, self.dynamic = cast(FunctionType, function), device.type == "cuda", dynamic
        self.graph = self._new()

    def _new(self) -> Callable[..., Tensor]:
        code, f = self.function.__code__.replace(), self.function
        # torch keeps 8 graphs at most for one code object. Functions of one definition share it, unless it is copied.
        own = FunctionType(code, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        mode = "reduce-overhead" if self.captured else None
        return torch.compile(own, fullgraph=True, dynamic=self.dynamic, mode=mode, backend=BACKEND)

    def __call__(self, *arguments: Arguments.args, **named: Arguments.kwargs) -> Tensor:
        """The value of the function.

        Raises:
            ValueError: if there is no compiler, or the function cannot be one graph. The message says which.
        """
        try:
            try:
                return self._run(*arguments, **named)
            except torch._dynamo.exc.FailOnRecompileLimitHit:
                self.graph = self._new()
                return self._run(*arguments, **named)
        except Exception as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise ValueError(f"compile: {reason}; compile=false needs no compiler") from error

    def _run(self, *arguments: Any, **named: Any) -> Tensor:
        if not self.captured:
            return self.graph(*arguments, **named)
        torch.compiler.cudagraph_mark_step_begin()
        return self.graph(*arguments, **named).clone()  # the next launch writes into the same memory


def missing_compiler(error: Exception) -> str | None:
    """Which compiler torch.compile did not find, or None if the error says nothing of that."""
    text = str(error)
    if any(words in text for words in ("InvalidCxxCompiler", "No working C++ compiler", "Failed to find C compiler")):
        return "torch.compile found no C++ compiler, expected one on the PATH or in the variable CXX"
    if "Cannot find a working triton" in text:
        return "torch.compile found no Triton, which it needs for this device"
    return None


def compiler_complaint(error: Exception) -> str | None:
    """The first line of an error of torch.compile, or None if the error is another's."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _reason(error: Exception) -> str | None:
    """Why torch.compile failed, or None if the error is not one of torch.compile's."""
    line = compiler_complaint(error)
    graph = None if line is None else f"expected a solve that torch.compile can make one graph of, got {line!r}"
    return missing_compiler(error) or graph
