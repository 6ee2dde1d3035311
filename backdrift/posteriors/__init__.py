"""Posteriors of a simulator's parameters, learnt from simulations."""

from backdrift.posteriors.diagnosis import Diagnosis, diagnose_draws
from backdrift.posteriors.simulation_posterior import SimulationPosterior

__all__ = ["Diagnosis", "SimulationPosterior", "diagnose_draws"]
