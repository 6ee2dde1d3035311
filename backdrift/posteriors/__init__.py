"""Posteriors of a simulator's parameters, learnt from simulations."""

from backdrift.posteriors.diagnosis import Diagnosis, diagnose_draws
from backdrift.posteriors.evidence import LogEvidence, log_evidence
from backdrift.posteriors.sequential import TruncatedRounds, truncated_rounds
from backdrift.posteriors.simulation_posterior import SimulationPosterior

__all__ = [
    "Diagnosis",
    "LogEvidence",
    "SimulationPosterior",
    "TruncatedRounds",
    "diagnose_draws",
    "log_evidence",
    "truncated_rounds",
]
