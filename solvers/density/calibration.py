"""Factors that make stated errors intervals: found on samples whose true errors are known from a finer solve."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from backdrift.sde.checks import require_number
from backdrift.solvers.density.likelihood import log_likelihood
from backdrift.solvers.model import ModelLike

FINER = 4
"""What is taken as true has this many times the steps and divergences, or tolerances divided by its fifth power."""


def calibrate(model: ModelLike, x: Tensor, *, level: float = 0.95, **settings: Any) -> float:
    r"""The factor by which `solver_error` holds the solver's error of a new sample with probability `level`.

    `log_likelihood` states the whole difference from a coarser solve. This bound is too wide by as much as the method
    is better than the coarser one. A finer solve gives the true errors of n samples, and the factor is the

    .. math:: \lceil (n + 1) \, \mathrm{level} \rceil

    -th smallest ratio of true to stated error: split-conformal calibration (Vovk et al. 2005; Lei et al. 2018). The
    promise holds for samples exchangeable with x, on average over them and over x, for any model and any number of
    samples. For one x, the share that is covered has a standard deviation of about sqrt(level (1 - level)/n).

    The factor is one number, for any batch afterwards: the interval of a sample does not depend on its neighbours.

    Args:
        model: as in `log_likelihood`.
        x: states at eps that are like those whose log-densities are wanted, but none of them: held-out data, or draws.
        level: of the interval, between 0 and 1.
        settings: of `log_likelihood`, which is to be called with the same ones and with `calibration`. `probes` is
            "exact", since random probes have an error of their own, and `estimate_error` is True or "coarser".

    Raises:
        ValueError: if a setting is none of these, or x has too few samples for `level`: level/(1 - level) are needed.

    Example:
        >>> factor = calibrate(model, held_out, probes="exact", steps=16)  # doctest: +SKIP
        >>> log_likelihood(model, x, probes="exact", steps=16, calibration=factor)  # doctest: +SKIP
    """
    true, stated = solver_errors(model, x, **settings)
    exact = (true == 0) & (stated == 0)  # a flow that is solved without any error, such as that of N(0, 1)
    factor = conformal(torch.where(exact, 1.0, true / stated), level)
    return factor if factor > 0 else 1.0


def solver_errors(model: ModelLike, x: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    """The error of the solver by a finer solve, and the `solver_error` that `log_likelihood` states, `[batch]` each.

    Arguments and what is raised are as in `calibrate`.
    """
    if settings.get("probes") != "exact":
        raise ValueError(f"probes: expected 'exact' for a calibration, got {settings.get('probes', 1)!r}")
    if "calibration" in settings:
        raise ValueError(f"calibration: expected none for a calibration, got {settings['calibration']!r}")
    if settings.get("estimate_error", True) not in (True, "coarser"):
        raise ValueError(
            f"estimate_error: expected True or 'coarser' for a calibration, got {settings['estimate_error']!r}"
        )
    stated = log_likelihood(model, x, **settings)
    finer = dict(settings)
    if stated.method == "adaptive":
        finer |= {name: settings.get(name, 1e-5) / FINER**5 for name in ("rtol", "atol")}
    else:
        finer["steps"] = FINER * stated.steps
        if isinstance(count := settings.get("divergences"), int):
            finer["divergences"] = FINER * count
    true = log_likelihood(model, x, **finer | {"estimate_error": False})
    return (stated.log_prob - true.log_prob).abs(), stated.solver_error


def conformal(scores: Tensor, level: float) -> float:
    """What a new score exceeds with a probability of at most 1 - `level`, if it is exchangeable with the n given ones.

    It is their ceil((n + 1) level)-th smallest.

    Raises:
        ValueError: if `level` is not between 0 and 1, or needs more scores than there are.
    """
    require_number("level", level, above=0, below=1)
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    if rank > len(scores):
        least = math.ceil(level / (1 - level) - 1e-9)
        raise ValueError(f"x: expected at least {least} samples to calibrate at level {level:g}, got {len(scores)}")
    return float(scores.flatten().kthvalue(rank).values)
