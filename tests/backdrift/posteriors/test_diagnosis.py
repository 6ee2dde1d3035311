"""Diagnoses of posteriors that are known: right ones pass, and narrow, biased or blind ones fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backdrift.posteriors import diagnose_draws
from backdrift.posteriors.diagnosis import Diagnosis

M, DRAWS = 400, 99


def diagnosis(seed: int, *, width: float = 1.0, shift: float = 0.0, blind: bool = False) -> Diagnosis:
    """theta ~ N(0, I) and x = theta + noise of variance 1, so that theta given x is N(x/2, I/2)."""
    g = np.random.default_rng(seed)
    theta = g.standard_normal((M, 2))
    x = theta + g.standard_normal((M, 2))
    mean, std = (0 * x, 1.0) if blind else (x / 2, np.sqrt(0.5))
    draws = mean[:, None] + std * (shift + width * g.standard_normal((M, DRAWS, 2)))
    predicted = draws[:, :50] + g.standard_normal((M, 50, 2))
    return diagnose_draws(draws, theta, x, x, predicted, random_state=seed)


def test_a_right_posterior_passes() -> None:
    """At significance 0.01 a right posterior fails in 1 of 100 seeds at most: of 10 at most 1 fails, but for a
    probability of 0.004."""
    found = [diagnosis(seed) for seed in range(10)]
    assert sum(not d.passed for d in found) <= 1
    # The mean of 10 coverages has a tenth of their variance.
    for level in (0.5, 0.8, 0.95):
        mean = np.mean([d.coverage[level][0] for d in found])
        assert abs(mean - level) < 4 * found[0].coverage[level][1] / np.sqrt(10)


def test_a_right_posterior_of_parameters_that_depend_on_one_another_passes() -> None:
    """Ranks of correlated parameters are correlated. Of 5 seeds 2 fail with probability 0.001 at most."""
    root = np.linalg.cholesky(np.array([[1.0, 0.95], [0.95, 1.0]]))
    passed = 0
    for seed in range(5):
        g = np.random.default_rng(seed)
        x = g.standard_normal((M, 2))
        theta = x + g.standard_normal((M, 2)) @ root.T
        draws = x[:, None] + g.standard_normal((M, DRAWS, 2)) @ root.T
        passed += diagnose_draws(draws, theta, x, random_state=seed).passed
    assert passed >= 4


@pytest.mark.parametrize(("width", "shift"), [(0.7, 0.0), (1.5, 0.0), (1.0, 0.4)])
def test_a_wrong_posterior_fails(width: float, shift: float) -> None:
    for seed in range(3):
        found = diagnosis(seed, width=width, shift=shift)
        assert not found.passed
        assert str(found).startswith("failed")


def test_the_prior_in_place_of_the_posterior_fails_by_the_local_test() -> None:
    """The prior's ranks are uniform, and only a test that sees the observation finds it out."""
    found = diagnosis(0, blind=True)
    assert found.rank_p_values.min() > 1e-3
    assert any("local" in line for line in found.failures)


def test_predictions_of_a_right_posterior_hold_what_was_observed() -> None:
    share, error = diagnosis(1).predictive or (0.0, 0.0)
    assert share > 0.93 and error < 0.02  # quantiles of 50 draws hold 0.95 - 2/51 at least


def test_picture(tmp_path: Path) -> None:
    diagnosis(0).plot(tmp_path / "diagnosis.png")
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="draws: expected shape"):
        diagnose_draws(np.zeros((30, 10, 3)), np.zeros((30, 2)), np.zeros((30, 2)))
    with pytest.raises(ValueError, match="theta: expected at least 20"):
        diagnose_draws(np.zeros((5, 10, 2)), np.zeros((5, 2)), np.zeros((5, 2)))
