"""Posteriors do not depend on the units, the signs or the order of parameters and observations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from backdrift import SimulationPosterior
from backdrift.posteriors.linear_gaussian import LinearGaussian
from backdrift.posteriors.parameter_maps import of_prior

RANDOM = np.random.default_rng(2)
SHARE = RANDOM.uniform(0, 1, (100, 2))
NOISE = 0.1 * RANDOM.standard_normal((100, 3))
UNITS, SHIFT, X_UNITS = np.array([1e6, 1e-3]), np.array([1e7, -3.0]), np.array([1e6, -1e-6, 3.0])
X_SHIFT = np.array([1e7, 0.0, -3.0])
INF = math.inf


def log_p(theta: np.ndarray, x: np.ndarray, prior: Any) -> np.ndarray:
    """Of the first simulations given the fourth. The network stays as it was made, which is the linear posterior."""
    fitted = SimulationPosterior(
        members=1, hidden=8, depth=1, steps=1, learning_rate=1e-14, ode_steps=4, random_state=0
    ).fit(theta, x, prior=prior)
    return fitted.log_prob(theta[:20], x[3])


@pytest.mark.parametrize("name", ["uniform", "none", "exponential"])
def test_units_signs_and_order(name: str) -> None:
    """log p changes by the log of the units. Values of 1e7 leave nine digits, and differences of them eight."""
    theta = -np.log(SHARE) if name == "exponential" else SHARE
    x = np.c_[theta[:, 0], theta.sum(1), theta[:, 1]] + NOISE
    here, there, below = {
        "uniform": (([0, 0], [1, 1]), (SHIFT, UNITS + SHIFT), ([-1, -1], [0, 0])),
        "none": (None, None, None),
        "exponential": (stats.expon(), stats.expon(SHIFT, UNITS), ([-INF, -INF], [0, 0])),
    }[name]
    values = log_p(theta, x, here)
    np.testing.assert_allclose(log_p(theta * UNITS + SHIFT, x, there), values - np.log(UNITS).sum(), atol=1e-5)
    np.testing.assert_allclose(log_p(theta, x * X_UNITS + X_SHIFT, here), values, atol=1e-5)
    np.testing.assert_allclose(log_p(theta[:, ::-1], x[:, ::-1], here), values, atol=1e-9)
    np.testing.assert_allclose(log_p(-theta, x, below), values, atol=1e-9)


def test_a_number_that_never_varies_changes_nothing() -> None:
    """It counted as a number that the regression is fitted with, which widened the posterior."""
    z, x = torch.from_numpy(SHARE), torch.from_numpy(SHARE + NOISE[:, :2])
    plain, more = LinearGaussian.fitted(z, x), LinearGaussian.fitted(z, torch.cat([x, torch.zeros(100, 5)], 1))
    np.testing.assert_allclose(more.whitening, plain.whitening, rtol=1e-9)


def test_a_covariance_in_reverse_order_is_a_covariance() -> None:
    """torch takes no array of negative strides."""
    mean, covariance = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    found = of_prior(stats.multivariate_normal(mean[::-1], covariance[::-1, ::-1]), 2)
    inverse = np.linalg.inv(covariance[::-1, ::-1])
    np.testing.assert_allclose(found.root.mT @ found.root, inverse, rtol=1e-12)
    assert found.shift.tolist() == [2, 1]
