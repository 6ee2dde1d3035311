"""What a solver asks of a model: the protocols, and functions that read a model's denoiser, score, device and width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast, overload, runtime_checkable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from backdrift.sde import GaussianSDE, HasScore, Prior, PriorDensity, Time, tweedie
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.held import tensors_of

Field = Callable[[Tensor, Time], Tensor]
"""A function of a state x `[batch, ...]` and a time t, a 0-d tensor or `[batch]`. Its value is shaped like x."""


@runtime_checkable
class Denoises(Protocol):
    """A model that gives the denoiser D(x, t) = E[x_0 | x_t = x], for a Gaussian process.

    The state x is `[batch, ...]`. The time t is a 0-d tensor if all samples share it, or `[batch]` with one time for
    each sample. D has the shape and the dtype of x. A model may also have:

    - `data_std`, the standard deviation of the data. Time grids and coordinates depend on it. Without it they use 1.
    - `data_moments`, the mean and the variance of each component of the data. The prior that samples start from and
      likelihoods end at has them; without them it is the process's own. See `prior_of`.
    - `predicts`, what its network predicts. If that is "noise", the denoiser's error is sigma/alpha times that of the
      network, and solvers on a fixed grid begin below T, see `TableSolver`.
    - `exact`, which is true where the score is that of a density known in closed form. Likelihoods then say how far
      they are from that density.
    - `select(indices)`, which returns the same model for the samples at `indices` only. A model needs it if it holds a
      value for each sample, such as a class label, because solvers may drop or repeat samples of a batch.
    """

    @property
    def sde(self) -> GaussianSDE: ...

    def denoise(self, x: Tensor, t: Tensor, /) -> Tensor: ...


ModelLike = Denoises | HasScore
"""The models that solvers take. `sde.FunctionModel` makes a model from a plain function."""

AnyModel = TypeVar("AnyModel", bound=ModelLike)


def require_model(model: ModelLike) -> None:
    """Check that an object is a model, and that its values are not random.

    Raises:
        TypeError: if it has no `sde`, or neither `denoise` nor `score`.
        ValueError: if a network in it is in training mode and has dropout or batch normalisation.
    """
    if isinstance(model, type):
        raise TypeError(f"model: expected an object, got the class {model.__name__}; make an instance of it first")
    if not hasattr(model, "sde"):
        remedy = ", which has no process; give it one with `under(sde)`" if hasattr(model, "under") else ""
        raise TypeError(f"model: expected an object with `sde` and `denoise(x, t)`, got {type(model).__name__}{remedy}")
    if not (hasattr(model, "denoise") or hasattr(model, "score")):
        raise TypeError(
            f"model: expected `denoise(x, t)` or `score(x, t)`, {type(model).__name__} has neither; "
            "wrap a function with sde.FunctionModel(function, sde, predicts=...)"
        )
    require_evaluation_mode(model)


def denoiser_of(model: ModelLike) -> Field:
    """The denoiser D(x, t) of a model. If the model has no `denoise`, D follows from its score by Tweedie's formula.

    The first value of the denoiser is checked against x.

    Raises:
        TypeError, ValueError: if `model` is not a model, see `require_model`. The denoiser itself raises a `TypeError`
            if its first value is not a tensor with the shape and dtype of x.
    """
    require_model(model)
    if hasattr(model, "denoise"):
        return Checked(model.denoise, f"{type(model).__name__}.denoise")
    score, sde = Checked(model.score, f"{type(model).__name__}.score"), cast(GaussianSDE, model.sde)
    return lambda x, t: tweedie(score(x, t), x, t, sde, "score", "denoised")


def score_of(model: ModelLike) -> Field:
    """The score s(x, t) of a model. If the model has no `score`, s follows from its denoiser by Tweedie's formula.

    The first value of the score is checked against x.

    Raises:
        TypeError, ValueError: as for `denoiser_of`.
    """
    require_model(model)
    if hasattr(model, "score"):
        return Checked(model.score, f"{type(model).__name__}.score")
    denoise, sde = denoiser_of(model), model.sde
    return lambda x, t: tweedie(denoise(x, t), x, t, sde, "denoised", "score")


class Checked:
    """A field that checks the shape and dtype of its first value.

    Without this check, a denoiser that returns `[batch, 1]` or a scalar would broadcast silently, and one that returns
    float64 for float32 would change the dtype of the state.

    Args:
        field: the function of (x, t).
        name: the name of the function in error messages.
    """

    __slots__ = ("checked", "field", "name")

    def __init__(self, field: Callable[..., Tensor], name: str) -> None:
        self.field, self.name, self.checked = field, name, False

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        value = self.field(x, t)
        if torch.compiler.is_compiling():  # the graph holds no check, and must not depend on what was checked before
            self._check(value, x)
        elif not self.checked:
            self._check(value, x)
            self.checked = True
        return value

    def _check(self, value: Any, x: Tensor) -> None:
        expected = f"expected a tensor like x, {list(x.shape)} of {x.dtype}"
        if not isinstance(value, Tensor):
            raise TypeError(f"model: {expected}, but {self.name}(x, t) returned {type(value).__name__}")
        if value.shape != x.shape or value.dtype != x.dtype:
            raise TypeError(f"model: {expected}, but {self.name}(x, t) returned {list(value.shape)} of {value.dtype}")


def recomputed(field: Field, model: ModelLike, x: Tensor) -> Field:
    """The field itself; or, if gradients are wanted, a field that does not store its activations for the backward pass.

    The backward pass computes the activations again. A differentiable solve then keeps a few states for each step and
    not the activations of the network.

    Args:
        field: of the model.
        model: gradients are wanted if one of its tensors, or x, requires them and they are enabled.
        x: the state at the start.
    """
    wanted = x.requires_grad or any(tensor.requires_grad for tensor in tensors_of(model))
    if not (torch.is_grad_enabled() and wanted):
        return field
    return lambda x, t: cast(Tensor, checkpoint(field, x, t, use_reentrant=False))


def select(model: AnyModel, indices: Tensor) -> AnyModel:
    """The model for the samples at `indices` `[n]` only: `model.select(indices)`, or `model` if it has no `select`."""
    own = getattr(model, "select", None)
    return model if own is None else own(indices)


def data_std_of(model: ModelLike, data_std: float | None = None) -> float:
    """The data's standard deviation: `data_std` if it is given, else the model's own, else 1."""
    return float(getattr(model, "data_std", 1.0)) if data_std is None else data_std


@overload
def prior_of(model: Denoises) -> Prior: ...


@overload
def prior_of(model: ModelLike) -> PriorDensity | None: ...


def prior_of(model: ModelLike) -> PriorDensity | None:
    """The density that replaces p_T: with the moments of the data where the model has them, else the process's own."""
    return model.sde.prior_for(getattr(model, "data_moments", None))


HALF = (torch.bfloat16, torch.float16)


def place_of(model: object) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype of the states of a model.

    They are those of the first floating-point tensor that it holds, or torch's defaults if it holds none. The search
    covers modules, attributes, bound methods, partial functions, and the variables that a function refers to.

    Half precision belongs inside of the network alone: a model with such weights has states in float32. A state in
    bfloat16 is rounded to three digits after every step, and its samples were four to seven times as far from those of
    the same network in float32.
    """
    for value in tensors_of(model):
        if value.is_floating_point():
            return value.device, torch.float32 if value.dtype in HALF else value.dtype
    return torch.get_default_device(), torch.get_default_dtype()
