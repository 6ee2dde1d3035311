"""Simulations in rounds: each round draws from the prior where the posterior of the round before may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from backdrift.estimators.table_checks import generator_of
from backdrift.posteriors.arguments import finite_rows
from backdrift.posteriors.parameter_maps import bounds_of
from backdrift.posteriors.simulation_posterior import SimulationPosterior
from backdrift.sde.checks import require_integer
from backdrift.sde.value_types import got, require

DRAWS = 2000
"""Draws of a posterior whose range decides where the next round simulates."""

MARGIN = 0.1
"""The range is widened by this share of itself at both ends."""


@dataclass(frozen=True, eq=False)
class TruncatedRounds:
    """What `truncated_rounds` returns.

    Attributes:
        posterior: of the last round. It is for `x_o` alone: other observations may need parameters that were left out.
        lower, upper: the box of each round, `[rounds, d]`. The posterior is normalised on the last one.
        theta, x: all simulations, `[rounds * simulations, d]` and `[rounds * simulations, *shape]`.
    """

    posterior: SimulationPosterior
    lower: np.ndarray
    upper: np.ndarray
    theta: np.ndarray
    x: np.ndarray


def truncated_rounds(
    simulator: Callable[[np.ndarray], Any],
    prior: object,
    x_o: Any,
    *,
    rounds: int = 3,
    simulations: int = 1000,
    estimator: SimulationPosterior | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> TruncatedRounds:
    """The posterior given one observation, from rounds of simulations with truncated proposals.

    Each round draws parameters from a uniform prior restricted to a box, which holds the draws of the last posterior
    and a margin. The posterior given `x_o` is the same under the restricted prior, but for what lies outside of the box
    (Deistler et al. 2022, who restrict the prior to a region of highest density). The parameters are mapped from the
    box to the real line, so that the density is normalised on the box and no draw leaves it; no factor is left to
    correct. Each fit takes the simulations of all rounds that lie in its box.

    Args:
        simulator: takes parameters `[n, d]` to observations `[n, *shape]`.
        prior: a pair (lower, upper) of finite bounds, or a uniform distribution of torch or scipy.
        x_o: the observation, `[*shape]` or `[1, *shape]`.
        rounds: how many.
        simulations: in each round.
        estimator: whose arguments are taken; by default those of `SimulationPosterior`.
        random_state: of the parameters and the fits.

    Raises:
        ValueError: if the prior is not uniform between finite bounds, or the simulator's answer has another length.
    """
    require_integer("rounds", rounds, 1)
    require_integer("simulations", simulations, 20)
    low, high, uniform = bounds_of(prior)
    if not uniform or not bool((low.isfinite() & high.isfinite()).all()):
        raise ValueError("prior: expected a uniform one between finite bounds, got another")
    if not callable(simulator):
        raise ValueError(f"simulator: expected a function of parameters [n, d], got {got(simulator)}")
    require("estimator", estimator, SimulationPosterior | None)
    random = generator_of(random_state)
    theta, x = torch.empty(0, len(low), dtype=torch.float64), torch.empty(0)
    boxes = []
    for number in range(rounds):
        boxes.append((low, high))
        new = low + (high - low) * torch.from_numpy(random.uniform(size=(simulations, len(low))))
        seen = finite_rows("simulator", simulator(new.numpy()))
        if len(seen) != simulations:
            raise ValueError(f"simulator: expected {simulations} observations, got {len(seen)}")
        theta, x = torch.cat([theta, new]), torch.cat([x, seen]) if len(x) else seen
        inside = ((theta > low) & (theta < high)).all(1)
        posterior: SimulationPosterior = clone(estimator or SimulationPosterior())
        posterior.set_params(random_state=int(random.randint(2**31 - 1)))
        posterior.fit(theta[inside], x[inside], prior=(low, high))
        if number < rounds - 1:
            low, high = _box(posterior, x_o, int(random.randint(2**31 - 1)), low, high)
    lower, upper = (torch.stack(side).numpy() for side in zip(*boxes, strict=True))
    return TruncatedRounds(posterior, lower, upper, theta.numpy(), x.numpy())


def _box(posterior: SimulationPosterior, x_o: Any, seed: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range of the posterior's draws with a margin, within the box of before."""
    draws = torch.from_numpy(posterior.sample(x_o, DRAWS, random_state=seed))
    least, most = draws.amin(0), draws.amax(0)
    margin = MARGIN * (most - least)
    return torch.maximum(least - margin, low), torch.minimum(most + margin, high)
