"""A plain function, or a network from elsewhere, as a model."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from torch import Tensor, nn

from backdrift.sde.checks import require_choice, require_positive
from backdrift.sde.gaussian import GaussianSDE
from backdrift.sde.model import Model
from backdrift.sde.prior import DataMoments
from backdrift.sde.process import SDE, Time, as_time, wide
from backdrift.sde.tweedie import Kind, tweedie
from backdrift.sde.value_types import require

Self = TypeVar("Self", bound="FunctionModel")  # typing.Self needs Python 3.11

SLACK = 1.01
"""How many times the largest sigma/alpha of its own process a function may be asked at, for rounding."""


class FunctionModel(Model):
    """A function (x, t) as a model.

    Args:
        function: called with x `[batch, ...]` and t, which is passed on as it came: a scalar or `[batch]`; and with
            what `given` adds. It returns a tensor like x. It may be a method, or a module with the weights of a
            network.
        sde: the process that x_t comes from.
        predicts: what the function returns: "denoised", "score", "noise", "velocity" or "v", see `affine`.
        data_moments: the mean and the variance of each component of the data, where they are known.
        data_std: the standard deviation of the data. Time grids and coordinates of solvers depend on it.

    Attributes:
        function, sde, predicts, data_moments, data_std: the arguments. The device and the dtype of the model are those
            of `function`.
        condition, arguments: what `given` set.

    Raises:
        ValueError: if `function` cannot be called, `predicts` is none of the five, or `data_std` is not positive; if
            alpha(T) = 0 and `predicts` is "noise" or "score", which say nothing about the data there. Evaluations raise
            it if the function returns another shape than that of x.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        sde: GaussianSDE,
        predicts: Kind = "denoised",
        data_moments: DataMoments | None = None,
        data_std: float = 1.0,
    ) -> None:
        if not callable(function):
            raise ValueError(f"function: expected a function of (x, t), got {type(function).__name__}")
        require("sde", sde, SDE)
        require_choice("predicts", predicts, get_args(Kind))
        require_positive(data_std=data_std)
        require("data_moments", data_moments, DataMoments | None)
        if predicts in ("noise", "score") and getattr(sde, "has_denoiser", False) and float(sde.alpha(sde.T)) == 0:
            raise ValueError(
                f"predicts: expected 'denoised', 'v' or 'velocity', since alpha = 0 at T and {predicts} says nothing "
                f"about the data there, got {predicts!r}"
            )
        self.function, self.sde, self.predicts, self.data_moments = function, sde, predicts, data_moments
        self.data_std = float(data_std)
        self.condition: Any = None
        self.arguments: dict[str, Any] = {}
        self._own = sde

    def under(self: Self, sde: GaussianSDE) -> Self:
        """The same function for the times of another process: D depends on x/alpha and sigma/alpha alone.

        The function is asked at its own time for the same sigma/alpha, and not below the time 0 of its own process.

        Raises:
            ValueError: if the process has more noise at its start than the function's own process ever has.
        """
        own, other = (math.exp(-0.5 * float(one.log_snr(one.start))) for one in (self._own, sde))
        if other > SLACK * own:
            raise ValueError(
                f"sde: expected a process with sigma/alpha of at most {own:.4g}, as the function knows, "
                f"got {other:.4g} at t = {sde.start:g} of {type(sde).__name__}"
            )
        made = copy.copy(self)
        made.sde = sde
        return made

    def given(self: Self, condition: Any = None, **arguments: Any) -> Self:
        """The same function given a condition, called as function(x, t, condition) and with further arguments by name.

        A tensor holds one value for each sample along its first axis. One with a first axis of length 1, or without
        axes, is for all samples, and so is a `Label`, `Vector` or `Picture` of one value. Anything else is passed on.

        Args:
            condition: the third argument; None for none.
            arguments: by name, such as `encoder_hidden_states`. They add to those given before, and replace them.

        Raises:
            ValueError: if the function takes no argument of such a name. Evaluations raise it if a tensor has a first
                axis that is not the number of samples.
        """
        for name in arguments:
            require_argument(self.function, name)
        other = copy.copy(self)
        other.condition = self.condition if condition is None else condition
        other.arguments = {**self.arguments, **arguments}
        return other

    def select(self: Self, indices: Tensor) -> Self:
        """The same model for the samples at `indices` `[n]` of a batch. Each of them keeps what it was given."""
        if self.condition is None and not self.arguments:
            return self
        other = copy.copy(self)
        other.condition = _selected(self.condition, indices)
        other.arguments = _selected(self.arguments, indices)
        return other

    def called(self, x: Tensor, t: Time) -> Tensor:
        """The function at (x, t), a time of its own process, with what `given` set."""
        if self.condition is None and not self.arguments:
            return self.function(x, t)
        condition = () if self.condition is None else (for_batch("condition", self.condition, x),)
        arguments = {name: for_batch(name, value, x) for name, value in self.arguments.items()}
        return self.function(x, t, *condition, **arguments)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        if self.sde is self._own:
            return tweedie(self.called(x, t), x, t, self.sde, self.predicts, "denoised")
        as_time(t, x, self.sde.T)  # which checks it
        time = wide(t)
        own = self._own.t_from_log_snr(self.sde.log_snr(time)).clamp(0, self._own.start)
        # Both have the same sigma/alpha, so this is the ratio of the alphas, in a form that is finite where they are 0.
        scale = _spread(self._own, own, self.data_std) / _spread(self.sde, time, self.data_std)
        x, own = as_time(scale, x) * x, own.to(x.device, x.dtype)
        return tweedie(self.called(x, own), x, own, self._own, self.predicts, "denoised")


def _spread(sde: GaussianSDE, t: Tensor, data_std: float) -> Tensor:
    """The standard deviation of x_t."""
    return (sde.alpha(t).square() * data_std**2 + sde.sigma(t).square()).sqrt()


def require_argument(function: Callable[..., Any], name: str) -> None:
    """Raise `ValueError` unless a function, or the network that it holds, takes an argument of this name."""
    function = getattr(function, "network", function)
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # a function that was not written in Python
        return
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    if name not in names[2:] and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        raise ValueError(f"{name}: expected one of the arguments {', '.join(names[2:]) or '(none)'} of the function")


def for_batch(name: str, value: Any, x: Tensor) -> Any:
    """A condition for the samples of x: tensors have one value for each sample, on the device of x.

    Raises:
        ValueError: if a tensor is neither for all samples nor has one value for each.
    """
    if isinstance(value, dict):
        return {key: for_batch(f"{name}[{key!r}]", entry, x) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(for_batch(name, entry, x) for entry in value)
    if isinstance(getattr(value, "value", None), Tensor):  # a Label, Vector or Picture
        value = value.value if value.each else value.value.unsqueeze(0)
    if not isinstance(value, Tensor):
        return value
    value = value.to(x.device, non_blocking=True)
    value = value.reshape(1) if value.ndim == 0 else value
    if len(value) not in (1, len(x)):
        raise ValueError(
            f"{name}: expected a first axis of 1 or {len(x)}, the number of samples, got {list(value.shape)}"
        )
    return value.expand(len(x), *value.shape[1:])


def _selected(value: Any, indices: Tensor) -> Any:
    """A condition for the samples at `indices`."""
    if isinstance(value, dict):
        return {key: _selected(entry, indices) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_selected(entry, indices) for entry in value)
    if hasattr(value, "select") and not isinstance(value, Tensor):
        return value.select(indices)
    if isinstance(value, Tensor) and value.ndim and len(value) > 1:
        return value[indices.to(value.device)]
    return value
