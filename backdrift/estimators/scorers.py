"""How good predicted distributions are, for `scoring=` of scikit-learn. More is better."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from backdrift.estimators.conditional_score_density import ConditionalScoreDensity
from backdrift.sde.value_types import got


def log_score(estimator: Any, X: Any, y: Any) -> float:
    """The mean of log p(y | x) over the rows, in nats.

    Args:
        estimator: a fitted `ConditionalScoreDensity`, or a pipeline or a search over parameters that ends with one.
        X: features, `[n, n_features]`.
        y: targets, `[n]` or `[n, n_targets]`.

    Raises:
        ValueError: if the estimator is another one. One that transforms targets has a density in other units.
    """
    density, X = _last_step(estimator, X)
    return float(density.log_prob(X, y).mean())


def neg_energy_score(estimator: Any, X: Any, y: Any) -> float:
    """Minus the mean energy score (Gneiting & Raftery 2007, eq. 22) in the units of y: minus the CRPS for one target.

    Args:
        estimator: see `log_score`.
        X: features, `[n, n_features]`.
        y: targets, `[n]` or `[n, n_targets]`.

    Raises:
        ValueError: see `log_score`.
    """
    density, X = _last_step(estimator, X)
    return -float(density.energy_score(X, y).mean())


def _last_step(estimator: Any, X: Any) -> tuple[ConditionalScoreDensity, Any]:
    """The density at the end of pipelines and searches, which may be in one another, and the features it sees there."""
    while not isinstance(estimator, ConditionalScoreDensity):
        if isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_") or hasattr(estimator, "refit"):
            check_is_fitted(estimator, "best_estimator_")
            estimator = estimator.best_estimator_
        else:
            raise ValueError(
                "estimator: expected a ConditionalScoreDensity, or a pipeline or search that ends with one, got "
                f"{got(estimator)}"
            )
    return estimator, X
