"""Which map each column of a table gets, if any: by the likelihood of a normal density after the map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backdrift.data.column_map import ColumnMap
from backdrift.data.outliers import Outliers, spread_of
from backdrift.data.transform import Transform

FITTED = 5000
"""The maps are fitted to so many rows, drawn at random, if there are more. Five numbers then cost 0.0005 nats."""

LEAST = 20
"""Fewer rows say nothing of tails."""

REPEATED = 0.1
"""A column in which one value has a larger share of the rows is discrete, and gets no map for its tails."""

JOINT = 32
"""Up to so many mapped columns, each is looked at again beside all others."""


class Family(NamedTuple):
    """Maps among which one is fitted.

    Attributes:
        kind: of `ColumnMap`.
        limits: the range of each number that is fitted besides centre and scale: log k of one or both tails, or log g
            and b.
        start: these numbers at the start.
        numbers: how many of them count as fitted. The maps for outliers and from zero have none beyond those of a
            normal density, and count as if they had one, so that chance does not choose them.
        from_zero: whether the map is a logarithm, of columns whose values have one sign. Its scale is not fitted.
    """

    kind: str
    limits: tuple[tuple[float, float], ...]
    start: tuple[float, ...]
    numbers: int
    from_zero: bool = False


INDEX = (-0.7, 6.0)
"""The range of log k. At its upper end, k = 400, a map leaves normal data as they are."""

GROWTH = (-4.0, 1.5)
"""The range of log g."""

SKEW = (-4.0, 4.0)
"""The range of b. Beyond, the fit finds an end of the column so close to its last value that new values lie past it."""

LOGARITHM = 15.0
"""The skew |b| at which a map is a logarithm, but for values a million times nearer to zero than the middle."""

FAMILIES = (
    Family("outliers", (), (), 1),
    Family("heavy", (INDEX,), (1.0,), 1),
    Family("heavy", (INDEX, INDEX), (1.0, 1.0), 2),
    Family("skewed", (GROWTH,), (-0.3,), 1, from_zero=True),
    Family("skewed", (GROWTH, SKEW), (-0.3, 2.0), 2),
)


class Choice(NamedTuple):
    """What one column may become.

    Attributes:
        map: the map, or None for the column as it is.
        h: the column after the map, standardised, `[n]`.
        gain: the log-slope of the map and of the standardisation, the sum over rows, less the penalty, in nats.
    """

    map: ColumnMap | None
    h: Tensor
    gain: float


def fit_transform(train: Tensor, outliers: Sequence[Outliers] = ()) -> Transform | None:
    r"""The maps of the columns of training rows, or None if all columns stay as they are.

    The numbers of a map maximise the likelihood of a normal density of h(v). A map is taken where it raises the
    log-likelihood by more than Schwarz's (1978) penalty of log(n)/2 nats for each number that it has. The likelihood is
    that of one normal density for all columns together, so that columns that are linear in each other stay so where
    that is worth more. A column with outliers always gets a map.

    Args:
        train: `[n, columns]`.
        outliers: what `find_outliers` says of them.
    """
    values = train.double().cpu()
    if len(values) < LEAST:
        return None
    if len(values) > FITTED:
        values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0), device="cpu")[:FITTED]]
    far = {found.feature for found in outliers}
    columns = [_choices(column, number in far) for number, column in enumerate(values.T.contiguous())]
    maps = tuple(choice.map for choice in _best(columns))
    return None if all(chosen is None for chosen in maps) else Transform(maps)


def _choices(column: Tensor, far: bool) -> list[Choice]:
    """What a column may become: first itself, unless it has outliers, then the maps that are better, the best first."""
    itself = _standardised(None, column, 0)
    spread = float(spread_of(column.numpy()[:, None])[0])
    if spread == 0:
        return [itself]
    discrete = int(column.unique(return_counts=True)[1].max()) > REPEATED * len(column)
    families = [family for family in FAMILIES if far or not discrete]
    if discrete:
        families = [family for family in families if not family.limits]
    if float(column.min()) <= 0 <= float(column.max()):
        families = [family for family in families if not family.from_zero]
    choices = sorted((_fitted(column, family, spread) for family in families), key=lambda choice: -choice.gain)
    if far:
        return choices
    return [itself, *(choice for choice in choices if choice.gain > itself.gain)]


def _fitted(column: Tensor, family: Family, spread: float) -> Choice:
    """The map of a family that makes a column most likely."""
    from scipy.optimize import minimize  # slow to import

    middle = float(column.median())
    low, high = np.quantile(column.numpy(), (0.1, 0.9))
    sign = math.copysign(1.0, middle)
    # Far from zero the numerical derivatives of the fit would see the rounding of the values. Only logarithms need it.
    origin = 0.0 if family.from_zero else middle
    centred = column - origin

    def map_of(numbers: np.ndarray) -> ColumnMap:
        centre, log_scale, *others = numbers.tolist()
        if family.from_zero:  # the middle goes to 0, and zero to minus infinity, or to infinity if the values are below
            growth, middle_now = math.exp(others[0]), middle * math.exp(centre)
            return ColumnMap("skewed", middle_now, abs(middle_now) * growth, skew=sign * LOGARITHM, growth=growth)
        place = centre * spread, spread * math.exp(log_scale)
        if family.kind == "heavy":
            return ColumnMap("heavy", *place, left=math.exp(others[0]), right=math.exp(others[-1]))
        if family.kind == "skewed":
            return ColumnMap("skewed", *place, skew=others[1], growth=math.exp(others[0]))
        return ColumnMap(family.kind, *place)

    def negative_log_likelihood(numbers: np.ndarray) -> float:
        h, log_slope = map_of(numbers).forward(centred)
        return float((0.5 * h.square() - log_slope).mean())

    start = np.array([0.0, 0.0, *family.start])
    if family.kind == "skewed" and high - middle < middle - low:
        start[3:] *= -1
    found = minimize(
        negative_log_likelihood, start, method="L-BFGS-B", bounds=[(-3.0, 3.0), (-2.0, 2.0), *family.limits]
    )
    # Rounded, so that the rounding errors of another machine do not make other units.
    best = map_of(found.x.round(3))
    return _standardised(replace(best, centre=best.centre + origin), column, family.numbers)


def _standardised(chosen: ColumnMap | None, column: Tensor, numbers: int) -> Choice:
    h, log_slope = (column, torch.zeros(())) if chosen is None else chosen.forward(column)
    n, deviation = len(column), float(h.std(correction=0))
    if not 0 < deviation < math.inf:
        return Choice(chosen, torch.zeros_like(h), -math.inf)
    gain = float(log_slope.sum()) - n * math.log(deviation) - 0.5 * numbers * math.log(n)
    return Choice(chosen, (h - h.mean()) / deviation, gain)


def _best(columns: Sequence[list[Choice]]) -> list[Choice]:
    """One choice for each column, such that the penalised likelihood of one normal density for all is high.

    Two beginnings are improved a column at a time: all columns as they are, and each with the map that is best for it
    alone.
    """
    first = [choices[0] for choices in columns]
    free = [number for number, choices in enumerate(columns) if len(choices) > 1]
    if not free:
        return first
    alone = [max(choices, key=lambda choice: choice.gain) for choices in columns]
    ends = [_improved(begin, columns, free if len(free) <= JOINT else []) for begin in (first, alone)]
    return max(ends, key=_penalised_likelihood)


def _improved(chosen: Sequence[Choice], columns: Sequence[list[Choice]], free: Sequence[int]) -> list[Choice]:
    """The choices after two rounds in which each free column takes the best map beside the others."""
    now = list(chosen)
    for _ in range(2):
        for number in free:
            tried = [[*now[:number], choice, *now[number + 1 :]] for choice in columns[number]]
            now = max(tried, key=_penalised_likelihood)
    return now


def _penalised_likelihood(chosen: Sequence[Choice]) -> float:
    """The log-likelihood of one normal density for all columns, less penalties, up to a constant, in nats."""
    from sklearn.covariance import ledoit_wolf  # slow to import

    h = torch.stack([choice.h for choice in chosen], 1).numpy()
    covariance = ledoit_wolf(h, assume_centered=True)[0]
    fit = np.linalg.slogdet(covariance)[1] + np.trace(np.linalg.solve(covariance, h.T @ h / len(h)))
    return sum(choice.gain for choice in chosen) - 0.5 * len(h) * float(fit)
