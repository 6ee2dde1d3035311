"""Calls of the library with odd arguments: each is refused in a line that names the argument, or gives the right value.

The right values are closed forms: the moments of a process, the denoiser and the density of a normal density, and
samples that do not depend on their batch.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backdrift import models, sde
from backdrift.models import MLP, Denoiser, GaussianMixture

NAN, INF, D = math.nan, math.inf, torch.float64


class Call(NamedTuple):
    """A call, and what it must do.

    Attributes:
        name: for the report.
        make: the call.
        expected: the beginning of the message of a refusal, which is the name of the argument; or a value.
    """

    name: str
    make: Callable[[], Any]
    expected: Any


def state(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=D)


X = state(3, 2)
NORMAL = GaussianMixture(torch.zeros(1, 2, dtype=D), 1.0, sde=sde.VP())
"""N(0, 1), which VP keeps: p_t = N(0, 1) at each t, score -x, denoiser alpha x, velocity 0."""

ALPHA = math.exp(-0.5 * (0.1 * 0.5 + 0.5 * 19.9 * 0.25))
"""alpha(0.5) of VP."""


def network(classes: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    made = MLP(2, 8, 1, classes=classes, dropout=dropout).double()
    nn.init.normal_(made.last.weight)
    return made


def model(classes: int = 0, dropout: float = 0.0) -> Denoiser:
    return Denoiser(network(classes, dropout), sde.VP())


def hybrid() -> models.HybridScore:
    return models.HybridScore(MLP((4,), 8, 1).double(), sde.CriticallyDamped())


def outcome(call: Call) -> str:
    """ "refused" or "right", or what is wrong with a call."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            found = call.make()
    except (ValueError, TypeError) as error:
        if isinstance(call.expected, str) and re.match(f"^{re.escape(call.expected)}[^\n]{{10,300}}$", str(error)):
            return "refused"
        return f"{call.name}: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{call.name}: {type(error).__name__}: {error}"
    if isinstance(call.expected, str):
        return f"{call.name}: accepted, {found!r}"
    try:
        # Half the digits of the dtype: a likelihood is integrated.
        tolerance = 1e-5
        torch.testing.assert_close(found, call.expected, rtol=tolerance, atol=tolerance)
    except AssertionError as error:
        return f"{call.name}: wrong value: {str(error).splitlines()[0]} {found!r}"
    return "right"


def a_few(calls: Sequence[Call], n: int) -> Sequence[Call]:
    """About `n` of the calls, evenly over the list, for the normal suite."""
    return calls[:: max(1, len(calls) // n)]


def require_right(calls: Sequence[Call], least: int) -> None:
    """Raise unless every call is refused in one line or right, and the list has as many as it is meant to have."""
    counts = Counter(outcome(call) for call in calls)
    print(f"{len(calls)} calls: {counts['refused']} refused in one line, {counts['right']} right")
    wrong = [line for line in counts if line not in ("refused", "right")]
    assert not wrong, "\n".join(wrong)
    assert len(calls) >= least
