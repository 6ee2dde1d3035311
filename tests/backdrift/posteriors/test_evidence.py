"""Evidences and Bayes factors of linear normal models, where both are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from backdrift import SimulationPosterior
from backdrift.posteriors import LogEvidence, log_evidence
from backdrift.posteriors.evidence import log_prior

N, NOISE = 1000, (0.5, 1.0)
SLOPE = np.array([[1.0, 0.5], [0.0, 1.0], [-0.5, 0.3]])


def fitted(noise: float) -> tuple[SimulationPosterior, SimulationPosterior]:
    """Posterior and likelihood of theta ~ N(0, I) and x = A theta + noise. Two steps of a network change nothing."""
    g = np.random.default_rng(int(10 * noise))
    theta = g.standard_normal((N, 2))
    x = theta @ SLOPE.T + noise * g.standard_normal((N, 3))
    small: dict[str, Any] = {"members": 1, "hidden": 8, "depth": 1, "steps": 2, "ode_steps": 6, "random_state": 0}
    return SimulationPosterior(**small).fit(theta, x, prior=stats.norm([0, 0], 1)), SimulationPosterior(**small).fit(
        x, theta
    )


@pytest.fixture(scope="module")
def models() -> list[tuple[SimulationPosterior, SimulationPosterior]]:
    return [fitted(noise) for noise in NOISE]


def exact(noise: float, x: np.ndarray) -> float:
    return float(stats.multivariate_normal(np.zeros(3), SLOPE @ SLOPE.T + noise**2 * np.eye(3)).logpdf(x))


def test_log_evidence_and_bayes_factor_within_their_errors(
    models: list[tuple[SimulationPosterior, SimulationPosterior]],
) -> None:
    """What the error does not see is an error of the likelihood that all draws share: of a regression on N simulations
    it is about the root of half of its numbers (9 of the mean and 6 of the covariance) over N, for observations
    that the model makes."""
    unseen = np.sqrt(15 / 2 / N)
    for seed in range(2):
        g = np.random.default_rng(seed)
        x = SLOPE @ g.standard_normal(2) + NOISE[0] * g.standard_normal(3)
        found = [log_evidence(*pair, x, prior=stats.norm([0, 0], 1), n=30, random_state=seed) for pair in models]
        for one, noise in zip(found, NOISE, strict=True):
            assert abs(one.value - exact(noise, x)) < 3 * np.hypot(one.error, unseen)
            assert one.error < 0.3
        factor = found[0] - found[1]
        gap = factor.value - (exact(NOISE[0], x) - exact(NOISE[1], x))
        assert abs(gap) < 3 * np.hypot(factor.error, np.sqrt(2) * unseen)


def test_a_likelihood_of_another_model_is_seen_in_the_error(
    models: list[tuple[SimulationPosterior, SimulationPosterior]],
) -> None:
    right = log_evidence(*models[0], np.ones(3), prior=stats.norm([0, 0], 1), n=30, random_state=0)
    wrong = log_evidence(models[0][0], models[1][1], np.ones(3), prior=stats.norm([0, 0], 1), n=30, random_state=0)
    assert wrong.error > 3 * right.error


def test_densities_of_priors() -> None:
    theta = np.array([[0.2, -0.1], [0.5, 0.3]])
    normal = stats.norm.logpdf(theta).sum(1)
    for prior in (
        stats.norm([0, 0], 1),
        torch.distributions.Normal(torch.zeros(2), torch.ones(2)),
        torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()),
        lambda rows: stats.norm.logpdf(rows).sum(1),
    ):
        assert np.allclose(log_prior(prior, theta), normal)
    assert np.allclose(log_prior(([-1, -1], [1, 3]), theta), -np.log(8))
    for wrong in ("normal", ([-1, -1], [1, np.inf]), lambda rows: np.zeros(3)):
        with pytest.raises(ValueError, match="prior: expected"):
            log_prior(wrong, theta)


def test_roles_that_are_not_swapped_are_refused(
    models: list[tuple[SimulationPosterior, SimulationPosterior]],
) -> None:
    with pytest.raises(ValueError, match="likelihood: expected one fitted to observations of 3 numbers"):
        log_evidence(models[0][0], models[0][0], np.zeros(3), prior=stats.norm([0, 0], 1))
    assert str(LogEvidence(1.0, 0.25, np.ones(3)) - LogEvidence(0.5, 0.0, np.ones(3))) == "0.500 ± 0.25 nats"
