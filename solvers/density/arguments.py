"""Checks of the arguments that the estimators of densities share."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from backdrift.sde.tensor_checks import require_finite
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.model import Denoises, ModelLike, require_model
from backdrift.solvers.tables.grid import Grid


def require_batch(x: Any, name: str = "x") -> None:
    """Raise `ValueError` unless x is a floating-point tensor `[batch, ...]` of finite numbers, at least one sample."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        got = f"{x.dtype} of shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected a floating-point tensor [batch, ...], got {got}")
    require_finite(name, x)


def require_gaussian_model(model: ModelLike) -> None:
    """Check that an object is a model of a Gaussian process, whose denoiser is known.

    Raises:
        TypeError: if it is not a model.
        ValueError: if its process is not Gaussian.
    """
    require_model(model)
    if not model.sde.has_denoiser:
        raise ValueError(f"model: expected one of a Gaussian process, got one of {type(model.sde).__name__}")


def require_grid(model: ModelLike, method: str, grid: Grid | None) -> None:
    """Raise `ValueError` if a grid is given to an adaptive method, or for a process that is not Gaussian."""
    if grid is None:
        return
    if method == "adaptive":
        raise ValueError(f"grid: expected none with method 'adaptive', which chooses its own steps, got {grid!r}")
    if not model.sde.has_denoiser:
        raise ValueError(f"grid: expected none for {type(model.sde).__name__}, which is not Gaussian, got {grid!r}")


def gaussian_flow(model: ModelLike, data_std: float | None, eps: float | None) -> AngleFlow:
    """The probability flow of a model of a Gaussian process, see `AngleFlow`.

    Raises:
        TypeError: if the model is not one.
        ValueError: if its process is not Gaussian, or `data_std` or `eps` is out of range.
    """
    require_gaussian_model(model)
    return AngleFlow(cast(Denoises, model), data_std, eps)
