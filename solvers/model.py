"""What a solver asks of a model, and where a model lives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backdrift.sde import SDE, GaussianSDE, Time, tweedie

Field = Callable[[Tensor, Time], Tensor]
"""A function of x `[batch, ...]` and t, a 0-d tensor or `[batch]`, whose value is shaped like x."""


@runtime_checkable
class Denoises(Protocol):
    """A model that gives the denoiser D(x, t) = E[x_0 | x_t = x], for a Gaussian process.

    x is `[batch, ...]`, and t is a 0-d tensor for all samples or `[batch]`, one time for each. D is shaped like x and
    has its dtype. Beside these a model may have:

    - `data_std`, the standard deviation of the data, which grids and coordinates ask for; 1 is assumed without it;
    - `select(indices)`, the same model for the samples at `indices` alone. A model that holds something for each
      sample, such as a label, needs it: a solver that drops or repeats samples calls it.
    """

    @property
    def sde(self) -> GaussianSDE: ...

    def denoise(self, x: Tensor, t: Tensor, /) -> Tensor: ...


@runtime_checkable
class HasScore(Protocol):
    """A model that gives the score s(x, t) = grad log p_t(x), for any process. Shapes are as for `Denoises`."""

    @property
    def sde(self) -> SDE: ...

    def score(self, x: Tensor, t: Tensor, /) -> Tensor: ...


Model = Denoises | HasScore
"""What a solver takes. `sde.FunctionModel` makes one of any function."""

AnyModel = TypeVar("AnyModel", bound=Model)


def require_model(model: Model) -> None:
    """Check that an object is a model.

    Raises:
        TypeError: if it has no `sde`, or neither `denoise` nor `score`.
    """
    if isinstance(model, type):
        raise TypeError(f"model: expected an object, got the class {model.__name__}; make an instance of it first")
    if not hasattr(model, "sde"):
        raise TypeError(f"model: expected an object with `sde` and `denoise(x, t)`, got {type(model).__name__}")
    if not (hasattr(model, "denoise") or hasattr(model, "score")):
        raise TypeError(
            f"model: expected `denoise(x, t)` or `score(x, t)`, {type(model).__name__} has neither; "
            "wrap a function with sde.FunctionModel(function, sde, predicts=...)"
        )


def denoiser_of(model: Model) -> Field:
    """D(x, t) of a model, by Tweedie's formula from its score where it has no `denoise`.

    Its first value is checked against x.

    Raises:
        TypeError: as `require_model`; and, when it is called, if D is not a tensor of the shape and dtype of x.
    """
    require_model(model)
    if hasattr(model, "denoise"):
        return Checked(model.denoise, f"{type(model).__name__}.denoise")
    score, sde = Checked(model.score, f"{type(model).__name__}.score"), cast(GaussianSDE, model.sde)
    return lambda x, t: tweedie(score(x, t), x, t, sde, "score", "denoised")


def score_of(model: Model) -> Field:
    """s(x, t) of a model, by Tweedie's formula from its denoiser where it has no `score`.

    Its first value is checked against x.

    Raises:
        TypeError: as `denoiser_of`.
    """
    require_model(model)
    if hasattr(model, "score"):
        return Checked(model.score, f"{type(model).__name__}.score")
    denoise, sde = denoiser_of(model), model.sde
    return lambda x, t: tweedie(denoise(x, t), x, t, sde, "denoised", "score")


class Checked:
    """A field whose first value is compared with the state that it was asked about.

    A denoiser that returns `[batch, 1]` or a scalar would broadcast without a word, and one that returns float64 for
    float32 would change the dtype of the state.

    Args:
        field: called with (x, t).
        name: what messages call it.
    """

    __slots__ = ("checked", "field", "name")

    def __init__(self, field: Callable[..., Tensor], name: str) -> None:
        self.field, self.name, self.checked = field, name, False

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        value = self.field(x, t)
        if not self.checked:
            self._check(value, x)
            self.checked = True
        return value

    def _check(self, value: Any, x: Tensor) -> None:
        expected = f"expected a tensor like x, {list(x.shape)} of {x.dtype}"
        if not isinstance(value, Tensor):
            raise TypeError(f"model: {expected}, but {self.name}(x, t) returned {type(value).__name__}")
        if value.shape != x.shape or value.dtype != x.dtype:
            raise TypeError(f"model: {expected}, but {self.name}(x, t) returned {list(value.shape)} of {value.dtype}")


def recomputed(field: Field) -> Field:
    """The same field, whose activations are not kept for a backward pass but computed again in it.

    Memory of a differentiable solve is then a few states for each step, not the whole network's activations.
    """

    def wrapped(x: Tensor, t: Time) -> Tensor:
        if not torch.is_grad_enabled():
            return field(x, t)
        return cast(Tensor, checkpoint(field, x, t, use_reentrant=False))

    return wrapped


def select(model: AnyModel, indices: Tensor) -> AnyModel:
    """The model for the samples at `indices`, `[n]`: the same one, unless it has a `select` of its own."""
    own = getattr(model, "select", None)
    return model if own is None else own(indices)


def data_std_of(model: Model, data_std: float | None = None) -> float:
    """The data's standard deviation: as given, else the model's own `data_std`, else 1."""
    return float(getattr(model, "data_std", 1.0)) if data_std is None else data_std


def place_of(model: object) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of a model's first floating-point tensor, else torch's defaults.

    It looks into modules, attributes, bound methods, partial functions, and the variables that a function refers to.
    """
    for value in _tensors(model, set(), depth=4):
        if value.is_floating_point():
            return value.device, value.dtype
    return torch.get_default_device(), torch.get_default_dtype()


def _tensors(holder: object, seen: set[int], depth: int) -> Iterator[Tensor]:
    """Tensors that an object holds, parameters of modules among them."""
    if isinstance(holder, Tensor):
        yield holder
        return
    if depth == 0 or id(holder) in seen or isinstance(holder, (SDE, str, int, float, type, ModuleType)):
        return
    seen.add(id(holder))
    if isinstance(holder, nn.Module):
        yield from holder.parameters()
        yield from holder.buffers()
    for part in _parts(holder):
        yield from _tensors(part, seen, depth - 1)


def _parts(holder: object) -> Iterator[object]:
    """What an object, a collection or a function refers to."""
    if isinstance(holder, (list, tuple)):
        yield from holder
    elif isinstance(holder, dict):
        yield from holder.values()
    elif isinstance(holder, functools.partial):
        yield from (holder.func, *holder.args, *holder.keywords.values())
    elif hasattr(holder, "__self__"):
        yield holder.__self__
    elif hasattr(holder, "__code__") and hasattr(holder, "__globals__"):
        for cell in holder.__closure__ or ():  # type: ignore[attr-defined]
            yield cell.cell_contents
        names = (name for name in holder.__code__.co_names if name in holder.__globals__)
        yield from (value for value in map(holder.__globals__.get, names) if isinstance(value, (Tensor, nn.Module)))
    elif hasattr(holder, "__dict__"):
        yield from list(vars(holder).values())
