"""A network of another library, called so that half precision stays inside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backdrift.sde.tensor_checks import require_shape
from backdrift.sde.value_types import got
from backdrift.solvers.model import HALF


class CalledNetwork:
    """A network that is called with a state, a time for each sample and further arguments, and returns a tensor.

    Networks return a tensor, a tuple whose first entry is one, or an object with the attribute `sample`, as diffusers'
    do. Weights in half precision get their inputs in half precision; what they return has the dtype of the state.

    Args:
        network: a module, or a function that holds one.
        learned_variance: whether the network returns twice as many channels as the state has, of which the second half
            are variances. They are left out.

    Attributes:
        network: the argument.

    Raises:
        ValueError: if `network` is a class, or cannot be called.
    """

    def __init__(self, network: Any, learned_variance: bool = False) -> None:
        if isinstance(network, type) or not callable(network):
            raise ValueError(f"network: expected a network or a function of (x, time), got {got(network)}")
        self.network, self.learned_variance = network, learned_variance

    def __call__(self, x: Tensor, time: Tensor, *positional: Any, **arguments: Any) -> Tensor:
        dtype = _weights_dtype(self.network)
        if dtype in HALF:
            positional, arguments = _as(dtype, positional), _as(dtype, arguments)
        value = self.ask(x.to(dtype) if dtype in HALF else x, time.expand(len(x)), *positional, **arguments)
        value = getattr(value, "sample", value)
        value = value[0] if isinstance(value, tuple) else value
        if not isinstance(value, Tensor):
            raise TypeError(f"network: expected one that returns a tensor, got {type(value).__name__}")
        if not value.is_floating_point():
            raise ValueError(f"network: expected one that returns floating-point numbers, got {value.dtype}")
        if self.learned_variance:
            value = value[:, : x.shape[1]]
        require_shape("network", value, x)
        return value.to(x.dtype)

    def ask(self, x: Tensor, time: Tensor, *positional: Any, **arguments: Any) -> Any:
        """What the network itself returns. A subclass may call it in another order."""
        return self.network(x, time, *positional, **arguments)


def _weights_dtype(network: Any) -> torch.dtype | None:
    """The dtype of the first floating-point weight, or None where there are no weights."""
    if not isinstance(network, nn.Module):
        return None
    return next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), None)


def _as(dtype: torch.dtype, value: Any) -> Any:
    """Floating-point tensors in a dtype, wherever in tuples and dictionaries they are."""
    if isinstance(value, dict):
        return {name: _as(dtype, entry) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_as(dtype, entry) for entry in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
