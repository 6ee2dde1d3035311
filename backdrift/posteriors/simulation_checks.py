"""What simulations have to be before a posterior is learnt from them or tested on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from backdrift.estimators.table_checks import check_magnitude, dependent_column
from backdrift.posteriors.arguments import finished, number_rows, parameter_rows
from backdrift.posteriors.linear_gaussian import LinearGaussian
from backdrift.posteriors.parameter_maps import ParameterMap

EXACTLY_KNOWN = 1e-5
"""A combination of the parameters is known exactly if the regression on the observations leaves so little of its
standard deviation."""

LEAST = 20
"""The least number of simulations that a posterior is learnt from, or tested on."""

CERTAINLY_ANOTHER = 1e-6
"""Parameters are not of the prior if so small a share of tests of those that are would say so."""


def simulations_to_fit(theta: object, x: object) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters `[n, d]`, observations `[n, *shape]`, and which simulations did not fail, `[n]`.

    Raises:
        ValueError: if there are fewer than 20 simulations or another number of them in `x`, or parameters are not
            finite numbers that vary.
    """
    theta, x = parameter_rows("theta", theta), number_rows("x", x)
    if len(x) != len(theta):
        raise ValueError(f"x: expected one row for each of the {len(theta)} rows of theta, got {len(x)}")
    if len(theta) < LEAST:
        raise ValueError(f"theta: expected at least {LEAST} simulations, got {len(theta)}")
    kept = finished("x", x, LEAST)
    _check_that_they_vary("theta: expected parameters that vary", theta)
    for j, column in enumerate(theta.T):
        check_magnitude(f"theta: parameter {j}", column.numpy())
    return theta, x, kept


def simulations_to_test(
    theta: object, x: object, parameters: ParameterMap, shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Parameters `[m, d]` and observations `[m, *shape]` of the tests that did not fail.

    Raises:
        ValueError: if there are fewer than 20 tests, another number of them in `x`, another shape, or parameters that
            do not vary or lie outside of the support.
    """
    theta, x = parameter_rows("theta_test", theta), number_rows("x_test", x)
    d = len(parameters.shift)
    if theta.shape[1] != d or len(theta) < LEAST:
        raise ValueError(f"theta_test: expected shape [m, {d}] with m of at least {LEAST}, got {list(theta.shape)}")
    if len(x) != len(theta):
        raise ValueError(f"x_test: expected one row for each of the {len(theta)} rows of theta_test, got {len(x)}")
    if tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(f"x_test: expected shape {[len(theta), *shape]}, got {list(x.shape)}")
    check_support("theta_test", theta, parameters)
    _check_that_they_vary("theta_test: expected draws from the prior", theta)
    kept = finished("x_test", x, LEAST)
    return theta[kept], x[kept]


def _check_that_they_vary(said: str, theta: Tensor) -> None:
    constant = (theta == theta[0]).all(0)
    if bool(constant.any()):
        j = int(constant.int().argmax())
        raise ValueError(f"{said}, got {theta[0, j]:g} in all rows of parameter {j}")


def check_support(name: str, theta: Tensor, parameters: ParameterMap) -> None:
    """Refuse parameters `[n, d]` that are not strictly within the bounds.

    Raises:
        ValueError: with their number and the first of them.
    """
    outside = ~parameters.inside(theta)
    if bool(outside.any()):
        raise ValueError(
            f"{name}: expected parameters within the support of the prior, got {int(outside.sum())} rows outside or on "
            f"a bound, the first of them {theta[outside][0].tolist()}"
        )


def check_dependence(z: Tensor) -> None:
    """Refuse parameters of which one is a linear function of the others, in z `[n, d]`.

    Raises:
        ValueError: with its number.
    """
    dependent = dependent_column(((z - z.mean(0)) / z.std(0)).numpy())
    if dependent is not None:
        raise ValueError(
            f"theta: expected parameters that vary by themselves, got parameter {dependent}, which is a linear "
            "function of the others in all rows and so has no density; leave it out"
        )


def warn_of_another_prior(z: Tensor, names: Sequence[str] | None) -> None:
    """Warn if a parameter, whose z `[n, d]` has to be standard normal under the prior, has another density."""
    # Of parameters with several simulations each is counted once.
    p = np.array([stats.kstest(np.unique(column), "norm").pvalue for column in z.T.numpy()])
    if p.min() * len(p) < CERTAINLY_ANOTHER:
        j = int(p.argmin())
        name = j if names is None else names[j]
        warnings.warn(
            f"prior: expected simulations with parameters drawn from it, but parameter {name} has another density "
            f"(Kolmogorov-Smirnov test, p = {p[j]:.1g}); the posterior is that of the density that they were drawn "
            "from, which is right if only simulations that failed were left out",
            stacklevel=3,
        )


def warn_of_exact_observations(base: LinearGaussian, z: Tensor, x: Tensor) -> None:
    """Warn if the observations leave no doubt about a combination of the parameters."""
    n, k = x.shape
    least = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov((z - base.mean(x)).T)))[0]
    if n > k + z.shape[1] + 1 and float(least) < EXACTLY_KNOWN**2:
        warnings.warn(
            "x: a combination of the parameters is a linear function of the observations, without any noise; its "
            "posterior is a point, and the one that is stated has a width",
            stacklevel=3,
        )
