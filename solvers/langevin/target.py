"""What a Markov chain asks of the density that it samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

LogDensityAndScore = Callable[[Tensor], tuple[Tensor | None, Tensor]]
"""From x `[batch, ...]` to log p(x) + const, `[batch]` (None where only a score is known), and the score."""


@runtime_checkable
class Target(Protocol):
    """A density p known up to its constant.

    Samples of a batch must not interact. Where it has `log_prob_and_score(x)` as well, that is called
    in place of the two. Short of this, a sampler takes

    - an object without `score`, or with one that wants more than x: the score by autograd;
    - a plain function x -> log p(x) + const: the same;
    - an object with `score(x)` alone: enough for the unadjusted samplers, not for the Metropolis test.
    """

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) + const in nats, `[batch]` for x `[batch, ...]`."""

    def score(self, x: Tensor) -> Tensor:
        """grad log p(x), shaped like x."""


def evaluator(target: Any) -> LogDensityAndScore:
    """Log-density and score in one call, from whatever of the two `target` has.

    Args:
        target: a `Target`, or one of the lesser things named there.

    Raises:
        ValueError: if it is none of them.
    """
    both = getattr(target, "log_prob_and_score", None)
    if both is not None and _takes_x_alone(both):
        return both
    score = getattr(target, "score", None)
    score = score if _takes_x_alone(score) else None
    log_prob = getattr(target, "log_prob", target if score is None else None)
    if log_prob is not None and not _takes_x_alone(log_prob):
        log_prob = None
    if score is not None:
        return lambda x: (None if log_prob is None else log_prob(x), score(x))
    if log_prob is not None:
        return _by_autograd(log_prob)
    raise ValueError(
        "target: expected an object with log_prob(x) or score(x), or a function x -> log p(x) + const; "
        f"got {type(target).__name__}, which has neither for x alone"
    )


def _takes_x_alone(function: Any) -> bool:
    """Whether `function(x)` is a call it accepts (the score of a model wants a time as well)."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
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
