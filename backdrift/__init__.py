"""backdrift: score-based generative modelling in continuous time. This package is what a person runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backdrift.estimators.conditional_score_density import ConditionalScoreDensity
    from backdrift.estimators.score_density import ScoreDensity
    from backdrift.interop.check_model import check_model
    from backdrift.posteriors.simulation_posterior import SimulationPosterior
    from backdrift.runs.load import load
    from backdrift.training.train import resume, train

__version__ = "0.2.0"
__all__ = ["ConditionalScoreDensity", "ScoreDensity", "SimulationPosterior", "check_model", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    # torch and scikit-learn are imported when one of these is asked for: `backdrift --help` needs neither.
    if name == "ConditionalScoreDensity":
        from backdrift.estimators.conditional_score_density import ConditionalScoreDensity

        return ConditionalScoreDensity
    if name == "ScoreDensity":
        from backdrift.estimators.score_density import ScoreDensity

        return ScoreDensity
    if name == "SimulationPosterior":
        from backdrift.posteriors.simulation_posterior import SimulationPosterior

        return SimulationPosterior
    if name == "check_model":
        from backdrift.interop.check_model import check_model

        return check_model
    if name == "load":
        from backdrift.runs.load import load

        return load
    if name == "resume":
        from backdrift.training.train import resume

        return resume
    if name == "train":
        from backdrift.training.train import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
