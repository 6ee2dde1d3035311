"""How good predicted distributions are, for `scoring=` of scikit-learn. More is better."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline


def log_score(estimator: Any, X: Any, y: Any) -> float:
    """The mean of log p(y | x) over the rows, in nats.

    Args:
        estimator: a fitted `ConditionalScoreDensity`, or a pipeline that ends with one.
        X: features, `[n, n_features]`.
        y: targets, `[n]` or `[n, n_targets]`.
    """
    density, X = _last_step(estimator, X)
    return float(density.log_prob(X, y).mean())


def neg_energy_score(estimator: Any, X: Any, y: Any) -> float:
    """Minus the mean energy score (Gneiting & Raftery 2007, eq. 22) in the units of y: minus the CRPS for one target.

    Args:
        estimator: a fitted `ConditionalScoreDensity`, or a pipeline that ends with one.
        X: features, `[n, n_features]`.
        y: targets, `[n]` or `[n, n_targets]`.
    """
    density, X = _last_step(estimator, X)
    return -float(density.energy_score(X, y).mean())


def _last_step(estimator: Any, X: Any) -> tuple[Any, Any]:
    """The density at the end of a pipeline, and the features that it sees there."""
    if not isinstance(estimator, Pipeline):
        return estimator, X
    return estimator[-1], estimator[:-1].transform(X) if len(estimator) > 1 else X
