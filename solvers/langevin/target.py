"""What a Markov chain asks of the density that it samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from backdrift.sde.evaluation_mode import require_evaluation_mode

LogDensityAndScore = Callable[[Tensor], tuple[Tensor | None, Tensor]]
"""From x `[batch, ...]` to log p(x) + const, `[batch]`, and the score. The first is None without a log-density."""


@runtime_checkable
class HasLogProb(Protocol):
    """A density whose logarithm is known up to a constant. Its score is taken by automatic differentiation."""

    def log_prob(self, x: Tensor, /) -> Tensor:
        """log p(x) + const in nats, `[batch]` for x `[batch, ...]`."""


@runtime_checkable
class HasTargetScore(Protocol):
    """A density of which only the score is known. It is enough for the samplers without a Metropolis test."""

    def score(self, x: Tensor, /) -> Tensor:
        """grad log p(x), shaped like x."""


@runtime_checkable
class Target(HasLogProb, HasTargetScore, Protocol):
    """A density p known up to its constant, with its score.

    The samples of a batch must not interact. A target may also have

    - `log_prob_and_score(x)`, which is then called in place of the two;
    - `select(indices)`, the same target for the chains at `indices` alone. A target that holds something for each
      chain needs it under `ParallelTempering`, which runs several replicas of each chain.

    Less than a target will do, see `AnyTarget`.
    """


AnyTarget = Target | HasLogProb | HasTargetScore | Callable[[Tensor], Tensor]
"""What `mcmc` takes: a `Target`, an object with `log_prob(x)` or `score(x)` alone, or a function x -> log p(x) + const.

A `log_prob` or `score` that needs more than x, such as a time, does not count.
"""


def evaluator(target: AnyTarget) -> LogDensityAndScore:
    """The log-density and the score in one call, from whichever of the two `target` has.

    Raises:
        ValueError: if `target` is not one of the kinds in `AnyTarget`, or a network in it is in training mode and has
            dropout or batch normalisation.
    """
    require_evaluation_mode(target, "target")
    both: Any = getattr(target, "log_prob_and_score", None)
    if _takes_x_alone(both):
        return cast(LogDensityAndScore, both)
    score: Any = getattr(target, "score", None)
    score = score if _takes_x_alone(score) else None
    log_prob: Any = getattr(target, "log_prob", target if score is None else None)
    log_prob = log_prob if _takes_x_alone(log_prob) else None
    if score is not None:
        return lambda x: (None if log_prob is None else log_prob(x), score(x))
    if log_prob is not None:
        return _by_autograd(log_prob)
    raise ValueError(
        "target: expected an object with log_prob(x) or score(x), or a function x -> log p(x) + const; "
        f"got {type(target).__name__}, which has neither for x alone"
    )


def select_target(target: AnyTarget, indices: Tensor) -> AnyTarget:
    """The target for the chains at `indices`, `[n]`: the same one, unless it has a `select` of its own."""
    own = getattr(target, "select", None)
    return target if own is None else cast(AnyTarget, own(indices))


def _takes_x_alone(function: Any) -> bool:
    """Whether `function(x)` is a call that it accepts. The score of a model does not: it needs a time as well."""
    if not callable(function):
        return False
    try:
        # A module takes any arguments, and hands them on.
        inspect.signature(function.forward if isinstance(function, nn.Module) else function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin function without a signature
        return True
    return True


def _by_autograd(log_prob: Callable[[Tensor], Tensor]) -> LogDensityAndScore:
    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = log_prob(x)
            (score,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), score

    return evaluate
