"""Stated errors made intervals that hold as often as they say, by samples whose errors are found out."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from backdrift.sde.checks import require_number
from backdrift.solvers.density.likelihood import log_likelihood

FINER = 4
"""Times the steps and the divergences, or tolerances divided by its fifth power, for what is taken as true."""


def calibrate(model: Any, x: Tensor, *, level: float = 0.95, **settings: Any) -> float:
    r"""The factor of `solver_error` with which it holds the solver's error of a new sample with probability `level`.

    `log_likelihood` states the whole difference from a coarser solve, a bound that is wide by as much as the method
    is better than the coarser one. Of n samples the ratios of true to stated error are found by a finer solve; their

    .. math:: \lceil (n + 1) \, \mathrm{level} \rceil

    -th smallest is the factor: split-conformal calibration (Vovk et al. 2005; Lei et al. 2018). The promise is for
    samples exchangeable with x, on average over them and over x, whatever the model and however many samples;
    given x the coverage has a standard deviation of about sqrt(level (1 - level)/n).

    One number, for any batch afterwards: a sample's interval does not depend on its neighbours.

    Args:
        model: as in `log_likelihood`.
        x: states at eps, like those whose log-densities are wanted but none of them: held-out data, or draws.
        level: of the interval.
        settings: of `log_likelihood`, which is to be called with the same and with `calibration`; with exact
            divergence, since the noise of random probes has an error of its own.

    Raises:
        ValueError: if `probes` is not "exact", or x has too few samples for `level`: level/(1 - level) are needed.

    Example:
        >>> factor = calibrate(model, held_out, probes="exact", steps=16)  # doctest: +SKIP
        >>> log_likelihood(model, x, probes="exact", steps=16, calibration=factor)  # doctest: +SKIP
    """
    if settings.get("probes") != "exact":
        raise ValueError(f"probes: expected 'exact' for a calibration, got {settings.get('probes', 1)!r}")
    stated = log_likelihood(model, x, **settings)
    finer = dict(settings)
    if stated.method == "adaptive":
        finer |= {name: settings.get(name, 1e-5) / FINER**5 for name in ("rtol", "atol")}
    else:
        finer["steps"] = FINER * stated.steps
        if isinstance(count := settings.get("divergences"), int):
            finer["divergences"] = FINER * count
    true = log_likelihood(model, x, **finer | {"estimate_error": False})
    return conformal((stated.log_prob - true.log_prob).abs() / stated.solver_error, level)


def conformal(scores: Tensor, level: float) -> float:
    """What a new score, exchangeable with the n given ones, is at most with probability `level`: their
    ceil((n + 1) level)-th smallest.

    Raises:
        ValueError: if `level` is not in (0, 1), or asks for more scores than there are.
    """
    require_number("level", level, above=0, below=1)
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    if rank > len(scores):
        least = math.ceil(level / (1 - level) - 1e-9)
        raise ValueError(f"x: expected at least {least} samples to calibrate at level {level:g}, got {len(scores)}")
    return float(scores.flatten().kthvalue(rank).values)
