"""The evidence of a model: how probable an observation is under it, from a posterior and a likelihood."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backdrift.estimators.argument_checks import whole_number
from backdrift.estimators.table_checks import require_order
from backdrift.posteriors.arguments import check_bound_labels, finite
from backdrift.posteriors.parameter_maps import ParameterMap, of_prior
from backdrift.posteriors.prior_support import support_of
from backdrift.sde.value_types import got

if TYPE_CHECKING:
    from backdrift.posteriors.simulation_posterior import SimulationPosterior

NEAR = 0.05
"""Draws are at a bound if one is nearer to it than this share of their range."""

LogDensity = Callable[[np.ndarray], Any]
"""Takes parameters `[n, d]` to log-densities `[n]` in nats."""


@dataclass(frozen=True, eq=False)
class LogEvidence:
    """log p(x_o), the log of the evidence of a model.

    `first - second` is the log of the Bayes factor of two models, with its error.

    Attributes:
        value: in nats.
        error: as a standard deviation, see `log_evidence`.
        terms: log p(x_o) as each draw gives it, `[n]`. They would all be equal if likelihood and posterior were exact.
    """

    value: float
    error: float
    terms: np.ndarray

    def __sub__(self, other: LogEvidence) -> LogEvidence:
        """The difference, whose error is that of independent estimates."""
        if not isinstance(other, LogEvidence):
            return NotImplemented
        return LogEvidence(
            self.value - other.value, math.hypot(self.error, other.error), np.concatenate([self.terms, -other.terms])
        )

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.2g} nats"


def log_evidence(
    posterior: SimulationPosterior,
    likelihood: SimulationPosterior,
    x_o: Any,
    *,
    prior: object,
    n: int = 100,
    random_state: int | np.random.RandomState | None = None,
) -> LogEvidence:
    r"""The log-evidence of an observation, by Bayes' rule at draws of the posterior:

    .. math:: \log p(x_o) = \log p(x_o | \theta) + \log p(\theta) - \log p(\theta | x_o).

    It holds at every theta, and so no integral is needed (Chib 1995). The terms are averaged over the draws. A
    likelihood is learnt by the same class with the roles swapped: `SimulationPosterior().fit(x, theta)`.

    The error is the standard deviation of the terms, with the numerical errors of both densities. It is not divided by
    the root of the number of draws, since a network's errors at neighbouring draws are no independent ones. It does not
    see an error of the likelihood that is the same at all draws, which grows where the observation is unusual.

    A likelihood that is learnt without the simulations that failed is that of a simulation that does not fail. The log
    of the probability that one does not fail at theta, if it is not always 1, is then to be added to each of `terms`.

    Args:
        posterior: fitted to `(theta, x)`.
        likelihood: fitted to `(x, theta)`.
        x_o: one observation, `[*shape]` or `[1, *shape]`.
        prior: of the parameters in the simulations that the posterior was fitted to: a pair (lower, upper) of finite
            bounds of a uniform prior, a distribution of torch, a frozen one of scipy, or a function that takes
            parameters `[n, d]` to log p(theta), `[n]`. Of `truncated_rounds` it is the prior that was given there.
        n: number of draws.
        random_state: of the draws.

    Raises:
        ValueError: if the shapes of the two estimators do not fit together, or the prior is none of these.

    Warns:
        UserWarning: if the posterior is cut off at a bound that the prior does not have.
    """
    n = whole_number("n", n, 2)
    for name, one in (("posterior", posterior), ("likelihood", likelihood)):
        if not hasattr(one, "parameters_"):
            raise ValueError(f"{name}: expected a fitted SimulationPosterior, got {got(one)}")
    seen = finite("x_o", x_o).reshape(1, -1)
    d, size = len(posterior.parameters_.shift), len(likelihood.parameters_.shift)
    if likelihood.observation_shape_ != (d,) or seen.shape[1] != size:
        raise ValueError(
            f"likelihood: expected one fitted to observations of {seen.shape[1]} numbers given {d} parameters, got one "
            f"of {size} given {list(likelihood.observation_shape_)}"
        )
    require_order("likelihood", likelihood.observation_names_, posterior.parameter_names_, "parameters")
    require_order("likelihood", likelihood.parameter_names_, posterior.observation_names_, "observations")
    check_bound_labels(prior, posterior.parameter_names_)
    theta = posterior.sample(x_o, n, random_state=random_state)
    _warn_of_bounds(posterior.parameters_, prior, theta)
    of_theta, first = posterior.log_prob(theta, x_o, return_std=True)
    of_x, second = likelihood.log_prob(seen.expand(n, -1), theta, each=True, return_std=True)
    terms = of_x + log_prior(prior, theta) - of_theta
    numerical = math.sqrt(float(np.mean(first**2 + second**2)))
    return LogEvidence(float(terms.mean()), math.hypot(float(terms.std(ddof=1)), numerical), terms)


def _warn_of_bounds(fitted: ParameterMap, prior: object, theta: np.ndarray) -> None:
    """Warn if draws `[n, d]` reach a bound of the fit that is none of the prior's: beyond it there would be more."""
    try:
        stated = of_prior(prior, theta.shape[1])
    except ValueError:  # of a function the bounds are not known, and what is no prior is refused by `log_prior`
        return
    reach = NEAR * np.ptp(theta, axis=0)
    for own, other in ((fitted.lower.numpy(), stated.lower.numpy()), (fitted.upper.numpy(), stated.upper.numpy())):
        cut = np.isfinite(own) & (own != other) & (np.abs(theta - own).min(0) < reach)
        if cut.any():
            j = int(cut.argmax())
            warnings.warn(
                f"prior: the posterior was fitted with the bound {own[j]:g} of parameter {j}, which its draws reach; "
                f"the bound of this prior is {other[j]:g}, so that the evidence is not that of this prior",
                stacklevel=3,
            )


def log_prior(prior: object, theta: np.ndarray) -> np.ndarray:
    """log p(theta) of a prior in nats, `[n]`, see `log_evidence` for what it may be.

    Raises:
        ValueError: if it is none of these, or does not give one finite number for each row.
    """
    n, d = theta.shape
    if isinstance(prior, torch.distributions.Distribution) or hasattr(prior, "logpdf"):
        try:
            found = _of_distribution(prior, theta)
        except (ValueError, RuntimeError) as error:  # torch and scipy refuse other numbers of parameters in many ways
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"prior: expected a density of {d} parameters, got an error: {said}") from error
    elif isinstance(prior, (tuple, list)) and len(prior) == 2:
        lower, upper = (bound.numpy() for bound in support_of(prior, d)[:2])
        if not np.isfinite([lower, upper]).all():
            raise ValueError("prior: expected finite bounds, since its density must be known, got an infinite one")
        outside = ((theta < lower) | (theta > upper)).any(1)
        if outside.any():
            raise ValueError(
                f"prior: expected the bounds that the posterior was fitted with, got {lower.tolist()}, "
                f"{upper.tolist()}, outside of which {int(outside.sum())} of {n} draws lie"
            )
        found = np.full(n, -np.log(upper - lower).sum())
    elif callable(prior):
        found = finite("prior", prior(theta.copy())).numpy()  # a function may change its argument
    else:
        raise ValueError(
            "prior: expected (lower, upper), a distribution of torch or scipy, or a function that takes theta to "
            f"log p(theta), got {type(prior).__name__}"
        )
    if found.shape == (n, d):  # independent parameters
        found = found.sum(1)
    if found.shape != (n,) or not np.isfinite(found).all():
        raise ValueError(f"prior: expected {n} finite log-densities, got an array of shape {list(found.shape)}")
    return found


def _of_distribution(prior: Any, theta: np.ndarray) -> np.ndarray:
    """log p(theta) of a distribution of torch or scipy, `[n]`, or `[n, d]` for independent parameters."""
    if isinstance(prior, torch.distributions.Distribution):
        return np.asarray(prior.log_prob(torch.from_numpy(theta)).detach().double())
    return np.asarray(prior.logpdf(theta))
