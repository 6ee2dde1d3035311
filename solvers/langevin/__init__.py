"""Langevin dynamics on a density known up to its constant: targets, samplers, adaptation, chains."""

from backdrift.solvers.langevin.chains import Chains
from backdrift.solvers.langevin.mcmc import mcmc
from backdrift.solvers.langevin.overdamped import MALA, ULA
from backdrift.solvers.langevin.target import Target
from backdrift.solvers.langevin.tempering import ParallelTempering
from backdrift.solvers.langevin.underdamped import BAOAB, MALT, AdjustedBAOAB

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
