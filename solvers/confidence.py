"""Confidence intervals: how many standard errors they reach."""

from __future__ import annotations

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
