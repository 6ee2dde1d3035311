"""Langevin dynamics on a density known up to its constant: targets, samplers, adaptation, chains."""

from backdrift.solvers.langevin.chains import Chains
from backdrift.solvers.langevin.mcmc import mcmc
from backdrift.solvers.langevin.samplers import BAOAB, MALA, MALT, ULA, AdjustedBAOAB
from backdrift.solvers.langevin.target import Target
from backdrift.solvers.langevin.tempering import ParallelTempering

__all__ = [
    "BAOAB",
    "MALA",
    "MALT",
    "ULA",
    "AdjustedBAOAB",
    "Chains",
    "ParallelTempering",
    "Target",
    "mcmc",
]
