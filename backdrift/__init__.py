"""backdrift: score-based generative modelling in continuous time. This package is what a person runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backdrift.estimators.conditional_score_density import ConditionalScoreDensity
    from backdrift.estimators.score_density import ScoreDensity
    from backdrift.estimators.table_density import TableDensity
    from backdrift.interop.check_model import check_model
    from backdrift.posteriors.simulation_posterior import SimulationPosterior
    from backdrift.runs.load import load
    from backdrift.training.train import resume, train

__version__ = "0.2.0"
__all__ = [
    "ConditionalScoreDensity",
    "ScoreDensity",
    "SimulationPosterior",
    "TableDensity",
    "check_model",
    "load",
    "resume",
    "train",
]

_MODULES = {
    "ConditionalScoreDensity": "estimators.conditional_score_density",
    "ScoreDensity": "estimators.score_density",
    "SimulationPosterior": "posteriors.simulation_posterior",
    "TableDensity": "estimators.table_density",
    "check_model": "interop.check_model",
    "load": "runs.load",
    "resume": "training.train",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    # torch and scikit-learn are imported when one of these is asked for: `backdrift --help` needs neither.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"backdrift.{_MODULES[name]}"), name)
