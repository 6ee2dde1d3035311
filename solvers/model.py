"""What a solver asks of a model, and where a model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE, tweedie


@runtime_checkable
class Denoises(Protocol):
    """All that a solver asks of a model: its process, and D(x, t) for x `[batch, ...]` and scalar t.

    An object with `score(x, t)` in place of `denoise` will do; `sde.FunctionModel` makes one of
    any function.
    """

    sde: GaussianSDE

    def denoise(self, x: Tensor, t: Tensor) -> Tensor: ...


def denoiser_of(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, t) of a model, from its score where it has no `denoise`.

    Raises:
        TypeError: if it has neither, or no `sde`.
    """
    if not hasattr(model, "sde"):
        raise TypeError(f"model: expected an object with `sde` and `denoise(x, t)`, got {type(model).__name__}")
    if hasattr(model, "denoise"):
        return model.denoise
    if hasattr(model, "score"):
        return lambda x, t: tweedie(model.score(x, t), x, t, model.sde, "score", "denoised")
    raise TypeError(
        f"model: expected `denoise(x, t)` or `score(x, t)`, {type(model).__name__} has neither; "
        "wrap a function with sde.FunctionModel(function, sde, predicts=...)"
    )


def score_of(model: Any) -> Callable[[Tensor, Any], Tensor]:
    """s(x, t) of a model, from its denoiser where it has no `score`. The process may be any SDE then.

    Raises:
        TypeError: if it has neither, or no `sde`.
    """
    if hasattr(model, "sde") and hasattr(model, "score"):
        return model.score
    denoise = denoiser_of(model)
    return lambda x, t: tweedie(denoise(x, t), x, t, model.sde, "denoised", "score")


def place_of(model: Any) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of a model's first floating-point tensor, else torch's defaults."""
    tensors = model.parameters() if isinstance(model, torch.nn.Module) else vars(model).values()
    for value in tensors:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.device, value.dtype
    return torch.get_default_device(), torch.get_default_dtype()
