"""backdrift: score-based generative modelling in continuous time. This package is what a person runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backdrift.estimators.score_density import ScoreDensity

__version__ = "0.1.0"
__all__ = ["ScoreDensity"]


def __getattr__(name: str) -> Any:
    # torch and scikit-learn are imported when the estimator is asked for: `backdrift --help` needs neither.
    if name == "ScoreDensity":
        from backdrift.estimators.score_density import ScoreDensity

        return ScoreDensity
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
