"""Maps of parameters to the real line, by which a density on it keeps to the support of a prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.posteriors.prior_support import normal_moments, support_of

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
    normal = normal_moments(prior, d)
    if normal is not None:
        mean, root = normal[0], torch.linalg.inv(normal[1])
        infinite = torch.full((d,), math.inf, dtype=torch.float64)
        return ParameterMap(-infinite, infinite, mean, root, True)
    lower, upper, uniform = support_of(prior, d)
    standard = uniform and bool((lower.isfinite() & upper.isfinite()).all())
    identity = torch.eye(d, dtype=torch.float64)
    return ParameterMap(lower, upper, torch.zeros(d, dtype=torch.float64), identity, standard)
