"""Maps of parameters to the real line, by which a density on it keeps to the support of a prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class ParameterMap:
    r"""z = R (h(theta) - m), where h takes each parameter from its support to the real line.

    With the bounds a and b of a parameter, h is

    ============== ============================================ =====================================
    bounds         h(theta)                                     log of its derivative
    ============== ============================================ =====================================
    both           :math:`\Phi^{-1}((\theta - a)/(b - a))`      :math:`-\log(b - a) - \log\phi(h)`
    a only         :math:`\log(\theta - a)`                     :math:`-h`
    b only         :math:`-\log(b - \theta)`                    :math:`h`
    none           :math:`\theta`                               0
    ============== ============================================ =====================================

    with the distribution function Phi and the density phi of the standard normal. A uniform prior becomes a standard
    normal one. No density of z puts any mass outside the bounds.

    Args:
        lower, upper: the bounds a and b, infinite where there is none, `[d]`, float64.
        shift: m, `[d]`.
        root: R, `[d, d]`, invertible.
        is_standard: whether the prior of z is known to be N(0, I).
    """

    lower: Tensor
    upper: Tensor
    shift: Tensor
    root: Tensor
    is_standard: bool

    @property
    def _kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which parameters have both bounds, only a lower one, and only an upper one."""
        low, high = self.lower.isfinite(), self.upper.isfinite()
        return low & high, low & ~high, high & ~low

    def inside(self, theta: Tensor) -> Tensor:
        """Whether each row of `theta` `[n, d]` lies strictly within the bounds, `[n]`."""
        return ((theta > self.lower) & (theta < self.upper)).all(1)

    def on_line(self, theta: Tensor) -> Tensor:
        """h(theta), `[n, d]`, for parameters within the bounds."""
        both, above, below = self._kinds
        h = theta.clone()
        a, b = self.lower[both], self.upper[both]
        # Near the upper bound 1 - share has no digits left, and the distance to the bound has them.
        share, rest = (theta[:, both] - a) / (b - a), (b - theta[:, both]) / (b - a)
        h[:, both] = torch.where(share < 0.5, torch.special.ndtri(share), -torch.special.ndtri(rest))
        h[:, above] = (theta[:, above] - self.lower[above]).log()
        h[:, below] = -(self.upper[below] - theta[:, below]).log()
        return h

    def to_real(self, theta: Tensor) -> Tensor:
        """z, `[n, d]`, of parameters within the bounds, `[n, d]`."""
        return (self.on_line(theta) - self.shift) @ self.root.T

    def to_parameters(self, z: Tensor) -> Tensor:
        """theta, `[n, d]`, of z `[n, d]`. It is never outside the bounds."""
        both, above, below = self._kinds
        h = torch.linalg.solve(self.root, z.T).T + self.shift
        theta = h.clone()
        a, b = self.lower[both], self.upper[both]
        theta[:, both] = torch.where(
            h[:, both] < 0,
            a + (b - a) * torch.special.ndtr(h[:, both]),
            b - (b - a) * torch.special.ndtr(-h[:, both]),
        )
        theta[:, above] = self.lower[above] + h[:, above].exp()
        theta[:, below] = self.upper[below] - (-h[:, below]).exp()
        # Rounding must not put a number on a bound or beyond it: there the density would be 0.
        least = torch.nextafter(self.lower, torch.full_like(self.lower, math.inf))
        most = torch.nextafter(self.upper, torch.full_like(self.upper, -math.inf))
        return theta.clamp(least, most)

    def log_jacobian(self, theta: Tensor) -> Tensor:
        """log |det dz/dtheta| at parameters within the bounds, `[n]`."""
        both, above, below = self._kinds
        h = self.on_line(theta)
        a, b = self.lower[both], self.upper[both]
        bounded = 0.5 * h[:, both].square() + LOG_ROOT_TWO_PI - (b - a).log()
        constant = torch.linalg.slogdet(self.root)[1]
        return bounded.sum(1) - h[:, above].sum(1) + h[:, below].sum(1) + constant


def standardising(parameters: ParameterMap, theta: Tensor) -> ParameterMap:
    """The map with m and R such that z of the rows of `theta` has mean 0 and variance 1 in each component."""
    h = parameters.on_line(theta)
    scale = h.std(0)
    return ParameterMap(parameters.lower, parameters.upper, h.mean(0), torch.diag(1 / scale), False)


def of_prior(prior: object, d: int) -> ParameterMap:
    """The map that keeps to the support of a prior, where z of a uniform or a normal prior is standard normal.

    Args:
        prior: None for parameters without bounds; a pair (lower, upper) for a uniform prior, or where a bound is
            infinite for a prior of any density between them; a distribution of torch; a frozen distribution of scipy;
            or an object whose `support` is such a pair or a constraint of torch.
        d: number of parameters.

    Raises:
        ValueError: if it is none of these, or its support is not an interval for each of `d` parameters.
    """
    normal = _normal(prior, d)
    if normal is not None:
        mean, covariance = normal
        root = torch.linalg.inv(torch.linalg.cholesky(covariance))
        infinite = torch.full((d,), math.inf, dtype=torch.float64)
        return ParameterMap(-infinite, infinite, mean, root, True)
    lower, upper, uniform = _bounds(prior, d)
    standard = uniform and bool((lower.isfinite() & upper.isfinite()).all())
    identity = torch.eye(d, dtype=torch.float64)
    return ParameterMap(lower, upper, torch.zeros(d, dtype=torch.float64), identity, standard)


def bounds_of(prior: object) -> tuple[Tensor, Tensor, bool]:
    """The lower and upper bounds of a prior, `[d]` each, and whether it is uniform between them.

    Raises:
        ValueError: if it does not tell its number of parameters, or is no prior, see `of_prior`.
    """
    if isinstance(prior, torch.distributions.Distribution):
        d = int((prior.batch_shape + prior.event_shape).numel())
    elif isinstance(prior, (tuple, list)) and len(prior) == 2:
        d = max(np.size(prior[0]), np.size(prior[1]))
    elif callable(getattr(prior, "support", None)):
        d = max(np.size(bound) for bound in prior.support())  # type: ignore[attr-defined]
    else:
        raise ValueError(f"prior: expected (lower, upper) or a distribution, got {type(prior).__name__}")
    return _bounds(prior, d)


def stated_bounds(prior: object, d: int) -> tuple[Tensor, Tensor]:
    """The lower and upper bounds of a prior of `d` parameters, `[d]` each.

    Raises:
        ValueError: if it is no prior, see `of_prior`, or its bounds are not `d` pairs.
    """
    return _bounds(prior, d)[:2]


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


def _normal(prior: object, d: int) -> tuple[Tensor, Tensor] | None:
    """The mean and the covariance of a normal prior; None for another one."""
    base = prior
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if isinstance(base, torch.distributions.Normal):
        return _numbers(base.loc, d), _numbers(base.scale, d).square().diag()
    if isinstance(base, torch.distributions.MultivariateNormal):
        return _numbers(base.loc, d), base.covariance_matrix.double()
    name = getattr(getattr(prior, "dist", None), "name", None)
    if name == "norm":
        return _numbers(prior.mean(), d), _numbers(prior.std(), d).square().diag()  # type: ignore[attr-defined]
    if hasattr(prior, "cov_object"):  # scipy.stats.multivariate_normal
        return _numbers(prior.mean, d), torch.as_tensor(np.atleast_2d(prior.cov), dtype=torch.float64)  # type: ignore[attr-defined]
    return None


def _bounds(prior: object, d: int) -> tuple[Tensor, Tensor, bool]:
    """The bounds of a prior's support, the lower ones below the upper ones, and whether it is uniform."""
    lower, upper, uniform = _stated_bounds(prior, d)
    if not bool((lower < upper).all()):
        raise ValueError(f"prior: expected lower bounds below the upper ones, got {lower.tolist()}, {upper.tolist()}")
    return lower, upper, uniform


def _stated_bounds(prior: object, d: int) -> tuple[Tensor, Tensor, bool]:
    if prior is None:
        return _numbers(-math.inf, d), _numbers(math.inf, d), False
    if isinstance(prior, torch.distributions.Distribution):
        base = prior
        while isinstance(base, torch.distributions.Independent):
            base = base.base_dist
        lower, upper = _of_constraint(base.support, type(base).__name__)
        return _numbers(lower, d), _numbers(upper, d), isinstance(base, torch.distributions.Uniform)
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
    if hasattr(dist, "pmf"):
        raise ValueError(f"prior: expected one of continuous parameters, got {getattr(dist, 'name', dist)}")
    uniform = getattr(dist, "name", None) == "uniform" and dist is not prior
    found = (
        support()
        if callable(support) and not isinstance(support, torch.distributions.constraints.Constraint)
        else support
    )
    lower, upper = found if isinstance(found, (tuple, list)) else _of_constraint(found, type(prior).__name__)
    return _numbers(lower, d), _numbers(upper, d), uniform


def _of_constraint(constraint: object, name: str) -> tuple[object, object]:
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
    real = constraint in (torch.distributions.constraints.real, torch.distributions.constraints.real_vector)
    if not (real or hasattr(constraint, "lower_bound") or hasattr(constraint, "upper_bound")):
        raise ValueError(f"prior: expected one whose support is an interval for each parameter, got {name}")
    return lower, upper
