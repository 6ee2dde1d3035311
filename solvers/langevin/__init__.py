"""Langevin dynamics on a density known up to its constant: targets, samplers, adaptation, chains."""

from solvers.langevin.annealed import AnnealedLangevin
from solvers.langevin.chains import Chains
from solvers.langevin.mcmc import mcmc
from solvers.langevin.samplers import BAOAB, MALA, MALT, ULA, AdjustedBAOAB
from solvers.langevin.target import Target
from solvers.langevin.tempering import ParallelTempering

__all__ = [
    "BAOAB",
    "MALA",
    "MALT",
    "ULA",
    "AdjustedBAOAB",
    "AnnealedLangevin",
    "Chains",
    "ParallelTempering",
    "Target",
    "mcmc",
]
