"""Confidence intervals, how many standard errors they reach, and how a number is written with its standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backdrift.sde.checks import require_number


def student(level: float, degrees: Tensor) -> Tensor:
    """Half the width of a two-sided interval of Student's t, in standard errors, shaped like `degrees`.

    Raises:
        ValueError: if `level` is not between 0 and 1.
    """
    from scipy import stats  # takes a second to import

    require_number("level", level, above=0, below=1)
    quantile = stats.t.ppf(0.5 + level / 2, degrees.detach().cpu().numpy())
    return torch.as_tensor(quantile, dtype=degrees.dtype, device=degrees.device)


def with_error(value: float, error: float, unit: str, samples: int) -> str:
    """A mean over samples in words: "3 ± 0.91 nats". Where the error is nan, it is told that and why it is not known.

    Args:
        value: the mean.
        error: its standard error.
        unit: of both, such as "nats".
        samples: how many the mean is taken over.
    """
    if not math.isnan(error):
        return f"{value:.5g} ± {error:.2g} {unit}"
    why = "one sample has no standard error" if samples == 1 else "its standard error is not known"
    return f"{value:.5g} {unit} ({why})"


def counted(number: int, what: str = "sample") -> str:
    """ "1 sample", "4 samples"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
