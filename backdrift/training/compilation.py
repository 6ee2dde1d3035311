"""The network of a training as machine code, where there is a compiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from backdrift.solvers import compilation


def compile_network(network: nn.Module, loss: Callable[[], Tensor]) -> str | None:
    """Have all later calls of a network, and their gradients, run as graphs that torch.compile makes.

    The loss is computed once with its gradient, so that everything is compiled before the first step. Weights, their
    gradients and buffers stay as they are, and so do the names in the network's state dict. A copy of the network is
    not compiled.

    Args:
        network: in training mode. It is changed in place.
        loss: calls the network as a training step does, and returns one number.

    Returns:
        None, or in one line why it cannot be compiled. The network is then as it was.
    """
    buffers = [value.clone() for value in network.buffers()]
    network.compile(dynamic=False, backend=compilation.BACKEND)
    before = _graphs()
    try:
        weights = [value for value in network.parameters() if value.requires_grad]
        torch.autograd.grad(loss(), weights, allow_unused=True)
        if _graphs() == before:
            # Inside of torch.func.grad, for example, torch.compile calls a network as it is, without a word.
            raise _NoGraph
    except Exception as error:
        fault = _fault(error)
        network._compiled_call_impl = None  # what `nn.Module.compile` sets; torch has no call that undoes it
        if fault is None:
            raise
        return fault
    finally:
        for value, kept in zip(network.buffers(), buffers, strict=True):
            value.copy_(kept)
    return None


class _NoGraph(Exception):
    """torch.compile has compiled nothing."""


def _graphs() -> int:
    """How many graphs torch.compile has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _fault(error: Exception) -> str | None:
    """Why a network cannot be compiled, or None if the error has nothing to do with that."""
    if "double backward" in str(error) or isinstance(error, _NoGraph):
        return "torch.compile makes nothing of a loss that holds a derivative of the network"
    line = compilation.compiler_complaint(error)
    return compilation.missing_compiler(error) or (None if line is None else f"torch.compile failed ({line})")
