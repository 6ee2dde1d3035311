"""Nominal regions hold what they say, on tasks of sbibm whose posteriors are known (Lueckmann et al. 2021)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from backdrift import SimulationPosterior
from backdrift.posteriors.diagnosis import LEVELS

SIMULATIONS, PAIRS, DRAWS = 1000, 300, 19
"""Of a right posterior a rank among 19 draws is below each of the levels with exactly that probability."""


@pytest.fixture(scope="module")
def sbi_tasks() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "sbi_tasks.py"
    spec = importlib.util.spec_from_file_location("sbi_tasks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sbi_tasks"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def credibility(posterior: SimulationPosterior, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """For each pair the level of the region of highest density whose border goes through the parameters, `[pairs]`.

    It is the rank of the parameters' density among the densities of draws. If the draws are of the true posterior it is
    uniform, whatever the density is that they are ranked by; a coarse solve will do."""
    draws = posterior.sample(x, DRAWS, each=True, random_state=0)
    rows = np.concatenate([theta[:, None], draws], 1).reshape(-1, theta.shape[1])
    steps = posterior.ode_steps
    log_p = posterior.set_params(ode_steps=8).log_prob(rows, np.repeat(x, DRAWS + 1, 0), each=True)
    posterior.set_params(ode_steps=steps)
    log_p = log_p.reshape(len(theta), DRAWS + 1)
    return (log_p[:, 1:] > log_p[:, :1]).sum(1) / (DRAWS + 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:x_o")
@pytest.mark.parametrize("name", ["gaussian_linear_uniform", "two_moons", "gaussian_mixture"])
def test_regions_hold_their_level(name: str, sbi_tasks: ModuleType) -> None:
    """Regions of highest density, those of TARP and central intervals, with the defaults of the estimator.

    The share of 300 pairs has a standard error of sqrt(level (1 - level)/300). Four of it are allowed: 0.115, 0.092 and
    0.050. Nothing is added for the error of a posterior from 1,000 simulations, which has to be smaller than that.
    """
    task = {
        "gaussian_linear_uniform": sbi_tasks.uniform(1, 10, sbi_tasks.gaussian),
        "two_moons": sbi_tasks.uniform(1, 2, sbi_tasks.two_moons),
        "gaussian_mixture": sbi_tasks.uniform(10, 2, sbi_tasks.gaussian_mixture),
    }[name]
    g = np.random.default_rng(17)
    theta = task.draw(g, SIMULATIONS + PAIRS)
    x = task.simulate(g, theta)
    posterior = SimulationPosterior(random_state=0).fit(theta[:SIMULATIONS], x[:SIMULATIONS], prior=task.prior)
    new = theta[SIMULATIONS:], x[SIMULATIONS:]
    diagnosis = posterior.diagnose(*new, draws=DRAWS)
    from_middle = 2 * np.abs(diagnosis.ranks - 0.5)  # the level of the central interval that ends at the parameter
    found = {"density": credibility(posterior, *new), "TARP": diagnosis.tarp}
    found |= {f"interval of {j}": column for j, column in enumerate(from_middle.T)}
    held = {kind: [float((level < one).mean()) for one in LEVELS] for kind, level in found.items()}
    print(name, held)
    allowed = 4 * np.sqrt(np.multiply(LEVELS, np.subtract(1, LEVELS)) / PAIRS)
    for kind, shares in held.items():
        assert (np.abs(np.subtract(shares, LEVELS)) < allowed).all(), (kind, shares)
