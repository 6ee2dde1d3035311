"""The support of a prior: bounds for each parameter, from pairs of bounds or distributions of torch and scipy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
    constraints,
)
from torch.distributions.transforms import ComposeTransform, Transform


def bounds_of(prior: object) -> tuple[Tensor, Tensor, bool]:
    """The lower and upper bounds of a prior, `[d]` each, and whether it is uniform between them.

    Raises:
        ValueError: if it does not tell its number of parameters, or is no prior, see `of_prior`.
    """
    if isinstance(prior, Distribution):
        d = int((prior.batch_shape + prior.event_shape).numel())
    elif isinstance(prior, (tuple, list)) and len(prior) == 2:
        d = max(np.size(prior[0]), np.size(prior[1]))
    elif callable(getattr(prior, "support", None)):
        d = max(np.size(bound) for bound in prior.support())  # type: ignore[attr-defined]
    else:
        raise ValueError(f"prior: expected (lower, upper) or a distribution, got {type(prior).__name__}")
    return support_of(prior, d)


def support_of(prior: object, d: int) -> tuple[Tensor, Tensor, bool]:
    """The bounds of the support of a prior of `d` parameters, the lower ones below the upper ones, `[d]` each, and
    whether it is uniform between them.

    Raises:
        ValueError: if it is no prior, see `of_prior`, or its bounds are not `d` pairs.
    """
    lower, upper, uniform = _stated(prior, d)
    if not bool((lower < upper).all()):
        raise ValueError(f"prior: expected lower bounds below the upper ones, got {lower.tolist()}, {upper.tolist()}")
    return lower, upper, uniform


def normal_moments(prior: object, d: int) -> tuple[Tensor, Tensor] | None:
    """The mean `[d]` and the root L of the covariance L L^T, `[d, d]`, of a normal prior; None for another one.

    Raises:
        ValueError: if it has another number of parameters, or its covariance is not positive definite.
    """
    found = _mean_and_covariance(prior, d)
    if found is None:
        return None
    mean, covariance = found
    root, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) or not bool(mean.isfinite().all()) or not bool(covariance.isfinite().all()):
        raise ValueError(
            f"prior: expected a normal one with a finite mean and a positive definite covariance, got the mean "
            f"{mean.tolist()} and the covariance {covariance.tolist()}"
        )
    return mean, root


def _mean_and_covariance(prior: Any, d: int) -> tuple[Tensor, Tensor] | None:
    base = _inner(prior)
    if isinstance(base, Normal):
        return _numbers(base.loc, d), _numbers(base.scale, d).square().diag()
    if isinstance(base, MultivariateNormal):
        return _numbers(base.loc, d), base.covariance_matrix.detach().double().reshape(d, d)
    name = getattr(getattr(prior, "dist", None), "name", None)
    if name == "norm":
        return _numbers(prior.mean(), d), _numbers(prior.std(), d).square().diag()
    newer: Any = getattr(stats, "Normal", ())  # of scipy 1.15 and later
    if isinstance(prior, newer):
        return _numbers(prior.mean(), d), _numbers(prior.standard_deviation(), d).square().diag()
    if hasattr(prior, "cov_object"):  # scipy.stats.multivariate_normal
        return _numbers(prior.mean, d), torch.from_numpy(np.array(prior.cov, dtype=np.float64, ndmin=2, order="C"))
    return None


def _numbers(value: object, d: int) -> Tensor:
    """Bounds or moments as `[d]` float64."""
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"prior: expected bounds or moments that are numbers, got {value!r}") from None
    try:
        return torch.from_numpy(np.broadcast_to(array.squeeze(0) if array.ndim > 1 else array, (d,)).copy())
    except ValueError:
        raise ValueError(
            f"prior: expected {d} numbers, one for each parameter, got shape {list(array.shape)}"
        ) from None


def _inner(prior: object) -> object:
    """The distribution in those of torch that only move axes."""
    while isinstance(prior, Independent):
        prior = prior.base_dist
    return prior


def _stated(prior: object, d: int) -> tuple[Tensor, Tensor, bool]:
    if prior is None:
        return _numbers(-math.inf, d), _numbers(math.inf, d), False
    if isinstance(prior, Distribution):
        lower, upper = _of_distribution(prior)
        return _numbers(lower, d), _numbers(upper, d), isinstance(_inner(prior), Uniform)
    if isinstance(prior, (tuple, list, np.ndarray, Tensor)):
        if len(prior) != 2:
            raise ValueError(f"prior: expected a pair (lower, upper), got {len(prior)} parts")
        return _numbers(prior[0], d), _numbers(prior[1], d), True
    support = getattr(prior, "support", None)
    if support is None:
        raise ValueError(
            "prior: expected (lower, upper), a distribution of torch or scipy, or an object with `support`, "
            f"got {type(prior).__name__}"
        )
    dist = getattr(prior, "dist", prior)
    if _has_counts(dist):
        raise ValueError(f"prior: expected one of continuous parameters, got {getattr(dist, 'name', dist)}")
    uniform = getattr(dist, "name", None) == "uniform" and dist is not prior
    uniform = uniform or isinstance(prior, getattr(stats, "Uniform", ()))  # of scipy 1.15 and later
    found = support() if callable(support) and not isinstance(support, constraints.Constraint) else support
    lower, upper = found if isinstance(found, (tuple, list)) else _of_constraint(found, type(prior).__name__)
    return _numbers(lower, d), _numbers(upper, d), uniform


def _has_counts(dist: Any) -> bool:
    """Whether single values have a probability. Distributions of scipy 1.15 and later have both a `pmf` and a `pdf`,
    which is infinite at such values."""
    if not hasattr(dist, "pmf"):
        return False
    return not hasattr(dist, "pdf") or bool(np.isposinf(dist.pdf(dist.median())).any())


def _of_distribution(prior: Distribution) -> tuple[Any, Any]:
    """The bounds of a distribution of torch.

    That of transformed variables states the range of its last transform, which for 2 u + 3 is the real line; the bounds
    of the first variable are therefore followed through the transforms. The support of a mixture is taken as the range
    that holds the supports of its components.
    """
    base: Any = _inner(prior)
    if type(base) is TransformedDistribution:
        return _of_transformed(base)
    if isinstance(base, MixtureSameFamily):
        part = base.component_distribution
        shape, axis = part.batch_shape + part.event_shape, -1 - len(part.event_shape)
        lower, upper = (_as_tensor(bound).expand(shape) for bound in _of_distribution(part))
        return lower.amin(axis), upper.amax(axis)
    return _of_constraint(base.support, type(base).__name__)


def _of_transformed(prior: TransformedDistribution) -> tuple[Any, Any]:
    declared = _of_constraint(prior.support, type(prior).__name__)
    lower, upper = map(_as_tensor, _of_distribution(prior.base_dist))
    for part in _single(prior.transforms):
        try:
            rising = torch.as_tensor(part.sign) > 0
        except NotImplementedError:  # it is not monotone in each variable
            return declared
        # At the end of a transform's domain its value is the end of its range. It may be infinite or rounded there.
        first, last = map(_as_tensor, _of_constraint(part.domain, "a transform"))
        least, most = map(_as_tensor, _of_constraint(part.codomain, "a transform"))
        low = torch.where(lower > first, part(lower), torch.where(rising, least, most))
        high = torch.where(upper < last, part(upper), torch.where(rising, most, least))
        lower, upper = torch.minimum(low, high), torch.maximum(low, high)
    return lower, upper


def _single(transforms: list[Transform]) -> Iterator[Transform]:
    """Transforms, of which none is a composition."""
    for one in transforms:
        if isinstance(one, ComposeTransform):
            yield from _single(one.parts)
        else:
            yield one


def _as_tensor(bound: Any) -> Tensor:
    return torch.as_tensor(bound, dtype=torch.float64).detach()


def _of_constraint(constraint: object, name: str) -> tuple[Any, Any]:
    """The bounds that a constraint of torch states."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    if hasattr(constraint, "cseq") and hasattr(constraint, "lengths"):  # one after another, as sbi joins priors
        parts = [
            [np.broadcast_to(np.asarray(bound, dtype=np.float64), (length,)) for bound in _of_constraint(part, name)]
            for part, length in zip(constraint.cseq, constraint.lengths, strict=True)
        ]
        lowers, uppers = zip(*parts, strict=True)
        return np.concatenate(lowers), np.concatenate(uppers)
    lower, upper = getattr(constraint, "lower_bound", -math.inf), getattr(constraint, "upper_bound", math.inf)
    if getattr(constraint, "is_discrete", False) and hasattr(constraint, "lower_bound"):
        raise ValueError(f"prior: expected one of continuous parameters, got {name}")
    real = constraint in (constraints.real, constraints.real_vector)
    if not (real or hasattr(constraint, "lower_bound") or hasattr(constraint, "upper_bound")):
        raise ValueError(f"prior: expected one whose support is an interval for each parameter, got {name}")
    return lower, upper
