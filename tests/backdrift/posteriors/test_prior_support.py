"""The support of priors whose bounds are known: transformed variables, mixtures, and scipy's new distributions."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td
from torch.distributions import transforms as tt

from backdrift.posteriors.parameter_maps import of_prior
from backdrift.posteriors.prior_support import bounds_of

INF, E = math.inf, math.e
UNIFORM, NORMAL = td.Uniform(torch.zeros(2), torch.ones(2)), td.Normal(torch.zeros(2), torch.ones(2))


def transformed(base: Any, *parts: Any) -> td.Distribution:
    return td.TransformedDistribution(base, list(parts))


@pytest.mark.parametrize(
    ("prior", "lower", "upper"),
    [
        (transformed(UNIFORM, tt.AffineTransform(3.0, 2.0)), 3, 5),
        (transformed(UNIFORM, tt.AffineTransform(3.0, -2.0)), 1, 3),
        (transformed(td.Independent(UNIFORM, 1), tt.AffineTransform(3.0, 2.0)), 3, 5),
        (transformed(UNIFORM, tt.ExpTransform()), 1, E),
        (transformed(UNIFORM, tt.ComposeTransform([tt.ExpTransform(), tt.AffineTransform(0.0, -1.0)])), -E, -1),
        (transformed(UNIFORM, tt.SigmoidTransform().inv), -INF, INF),
        (transformed(UNIFORM, tt.PowerTransform(torch.tensor(-1.0))), 1, INF),
        (transformed(NORMAL, tt.ExpTransform(), tt.AffineTransform(3.0, 1.0)), 3, INF),
        (transformed(NORMAL, tt.ExpTransform(), tt.AffineTransform(0.0, -1.0)), -INF, 0),
        (transformed(NORMAL, tt.SigmoidTransform(), tt.AffineTransform(1.0, 4.0)), 1, 5),
        (transformed(NORMAL, tt.AbsTransform()), 0, INF),
        (td.LogNormal(torch.zeros(2), torch.ones(2)), 0, INF),
        (td.Gumbel(torch.zeros(2), torch.ones(2)), -INF, INF),
        (td.MixtureSameFamily(td.Categorical(torch.ones(2, 2)), td.Uniform(torch.zeros(2, 2), torch.eye(2) + 3)), 0, 4),
        (stats.expon(loc=[1, 1], scale=2), 1, INF),
        (stats.truncnorm(-1, [2, 2], loc=5, scale=3), 2, 11),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_support_of_transformed_variables_and_mixtures(prior: Any, lower: float, upper: float) -> None:
    """The real line was taken for the support of 2 u + 3, so that draws left it. Bounds are in the prior's float32."""
    found = of_prior(prior, 2)
    np.testing.assert_allclose(found.lower, [lower] * 2, rtol=1e-6)
    np.testing.assert_allclose(found.upper, [upper] * 2, rtol=1e-6)
    if isinstance(prior, td.Distribution):
        draws = prior.sample((100,)).double()
        assert bool(((draws >= found.lower) & (draws <= found.upper)).all())


@pytest.mark.skipif(not hasattr(stats, "Normal"), reason="they came with scipy 1.15")
def test_new_distributions_of_scipy() -> None:
    """They were refused as discrete ones, since they have a `pmf`, which is 0."""
    normal = of_prior(stats.Normal(mu=[3.0, 4.0], sigma=[1.0, 2.0]), 2)
    assert normal.is_standard and normal.shift.tolist() == [3, 4]
    assert np.allclose(normal.root, np.diag([1.0, 0.5]))
    assert of_prior(stats.Uniform(a=[0.0, 1.0], b=2.0), 2).is_standard
    assert [bound.tolist() for bound in bounds_of(stats.Uniform(a=[0.0, 1.0], b=2.0))[:2]] == [[0, 1], [2, 2]]
    for prior, low, high in (
        (stats.truncate(stats.Normal(mu=0.0, sigma=1.0), lb=0.0, ub=1.0), 0, 1),
        (stats.exp(stats.Normal(mu=0.0, sigma=1.0)), 0, INF),
        (stats.make_distribution(stats.gamma)(a=2.0), 0, INF),
    ):
        found = of_prior(prior, 2)
        assert (found.lower.tolist(), found.upper.tolist()) == ([low] * 2, [high] * 2)
    if hasattr(stats, "Binomial"):
        with pytest.raises(ValueError, match=r"^prior: expected one of continuous parameters, got Binomial"):
            of_prior(stats.Binomial(n=3, p=0.4), 2)


@pytest.mark.parametrize(
    "prior",
    [
        stats.norm([0, 0], [1, -1]),
        stats.norm([0, 0], [1, 0]),
        stats.norm(math.nan, 1),
        stats.multivariate_normal([0, 0], np.ones((2, 2)), allow_singular=True),
    ],
    ids=["negative", "zero", "nan", "singular"],
)
def test_a_normal_prior_without_a_density_is_refused(prior: Any) -> None:
    """It ended in an error of linear algebra."""
    with pytest.raises(ValueError, match=re.escape("prior: expected a normal one with a finite mean and a positive")):
        of_prior(prior, 2)
