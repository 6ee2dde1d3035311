"""The begin of a solve at less noise than there is at T, for networks that predict the noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from backdrift.sde import GaussianSDE
from backdrift.solvers.tables.grid import Points
from backdrift.solvers.tables.table import Row, by_step

BEGIN_RATIO = 4.0
"""Fitted by `benchmarks/diffusers_schedulers.py --starts`. From 3 to 6 the median error changes by less than twice."""


def predicts_noise(model: object) -> bool:
    """Whether the model's network predicts the noise: its denoiser errs by sigma/alpha times the error of its output.

    A model says so by its attribute `predicts`, as `sde.FunctionModel` does.
    """
    return getattr(model, "predicts", None) == "noise"


def lower_begin(sde: GaussianSDE, steps: int, data_std: float) -> float:
    """The time at which sigma/alpha is `BEGIN_RATIO` times `steps` times the data's width, or T if that is later.

    The error of a denoiser D = (x - sigma eps)/alpha is sigma/alpha times that of eps, and the first step of a few is
    long. From there the first step spans about the same share of the noise for every number of steps.

    Args:
        sde: the process.
        steps: of the solver.
        data_std: the data's standard deviation d.
    """
    log_snr = -2 * math.log(BEGIN_RATIO * steps * data_std)
    return sde.start if log_snr <= float(sde.log_snr(sde.start)) else min(float(sde.t_from_log_snr(log_snr)), sde.start)


def from_T(rows: Sequence[Row], points: Points) -> Iterator[Row]:
    r"""The rows of a solver whose grid begins below T, for a state x that comes at T, with as many evaluations.

    The first evaluation is made at the first time t' of the grid. Its denoiser D serves for the way from T as well,
    since it changes little there. The exact flow of a constant D is

    .. math:: x' = \frac{\sigma'}{\sigma_T} x + c D, \quad c = \alpha' (1 - r'/r_T), \quad r = \sigma/\alpha,

    and D is evaluated at its first part, where x' lies but for the data's share of it. The first value of the rows,
    D + slope x' = (1 + slope c)(D + q sigma'/sigma_T x) with q = slope/(1 + slope c), is then known.

    Args:
        rows: of the solver, of which the first evaluates at t'.
        points: of the grid, which begins at t'.
    """
    sde, first = points.sde, rows[0]
    at_T, here = Points(sde, points.t.new_tensor([sde.start])), points[:1]
    ((to, share, c),) = by_step(here.t, here.sigma / at_T.sigma, here.alpha * (1 - here.ratio / at_T.ratio))
    factor = 1 + first.slope * c
    slope = first.slope / factor
    yield Row(to, share, (), kind="stage")
    yield Row(to, 1 - c * slope, (c,), first.at, slope, kind="stage")
    evaluations = 0
    for row in rows:
        oldest = evaluations = evaluations + (row.at is not None)
        weights = tuple(w * factor if j + 1 == oldest else w for j, w in enumerate(row.weights))
        row = row._replace(weights=weights)
        yield row if row.at is None or evaluations > 1 else row._replace(at=None, slope=0.0)
