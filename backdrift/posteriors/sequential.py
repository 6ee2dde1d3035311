"""Simulations in rounds: each round draws from the prior where the posterior of the round before may be."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from backdrift.estimators.argument_checks import generator_of, whole_number
from backdrift.posteriors.arguments import check_labels, finite, labels_of, number_rows, observations
from backdrift.posteriors.prior_support import bounds_of
from backdrift.posteriors.simulation_posterior import SimulationPosterior
from backdrift.sde.checks import require_choice
from backdrift.sde.value_types import got, require

DRAWS = 2000
"""Draws of a posterior whose range decides where the next round simulates."""

MARGIN = 0.1
"""The range is widened by this share of itself at both ends."""

LEFT_OUT = 1e-3
"""The share of a posterior that its region of highest density leaves out (Deistler et al. 2022 leave out 1e-4 and less,
for which there are more draws)."""

REGIONS = ("box", "density")

TRIES = 200
"""Parameters that are drawn from the box for each one in the region, at most."""


@dataclass(frozen=True, eq=False)
class TruncatedRounds:
    """What `truncated_rounds` returns.

    Attributes:
        posterior: of the last round. It is for `x_o` alone: other observations may need parameters that were left out.
        lower, upper: the box of each round, `[rounds, d]`. The posterior is normalised on the last one.
        share: the share of the box that the region of each round takes up, `[rounds]`; 1 for a box.
        theta, x: all simulations, `[rounds * simulations, d]` and `[rounds * simulations, *shape]`.
    """

    posterior: SimulationPosterior
    lower: np.ndarray
    upper: np.ndarray
    share: np.ndarray
    theta: np.ndarray
    x: np.ndarray


def truncated_rounds(
    simulator: Callable[[np.ndarray], Any],
    prior: object,
    x_o: Any,
    *,
    rounds: int = 3,
    simulations: int = 1000,
    region: str = "box",
    estimator: SimulationPosterior | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> TruncatedRounds:
    """The posterior given one observation, from rounds of simulations with truncated proposals.

    Each round draws parameters from a uniform prior restricted to a box, which holds the draws of the last posterior
    and a margin. The posterior given `x_o` is the same under the restricted prior, but for what lies outside of the box
    (Deistler et al. 2022, who restrict the prior to a region of highest density). The parameters are mapped from the
    box to the real line, so that the density is normalised on the box and no draw leaves it; no factor is left to
    correct. Each fit takes the simulations of all rounds that lie in its box.

    With `region="density"` parameters are drawn from the part of the box in which the density of each earlier
    posterior is above that of 0.1% of its draws, as Deistler et al. (2022) do. It is smaller than the box where
    parameters depend on one another. The fits take the simulations of all rounds that lie in it. The posterior is
    normalised on the box all the same, and has learnt that there is next to nothing outside of the region.

    Args:
        simulator: takes parameters `[n, d]` to observations `[n, *shape]`, which hold NaN where it failed.
        prior: a pair (lower, upper) of finite bounds, or a uniform distribution of torch or scipy.
        x_o: the observation, `[*shape]` or `[1, *shape]`.
        rounds: how many.
        simulations: in each round.
        region: "box" or "density".
        estimator: whose arguments are taken; by default those of `SimulationPosterior`.
        random_state: of the parameters and the fits.

    Raises:
        ValueError: if the prior is not uniform between finite bounds, the simulator's answer has another length, or a
            region takes up less than 1/200 of its box.
    """
    rounds, simulations = whole_number("rounds", rounds), whole_number("simulations", simulations, 20)
    require_choice("region", region, REGIONS)
    low, high, uniform = bounds_of(prior)
    if not uniform or not bool((low.isfinite() & high.isfinite()).all()):
        raise ValueError("prior: expected a uniform one between finite bounds, got another")
    if not callable(simulator):
        raise ValueError(f"simulator: expected a function of parameters [n, d], got {got(simulator)}")
    require("estimator", estimator, SimulationPosterior | None)
    # What can be wrong is found before anything is simulated, which may take long.
    (estimator or SimulationPosterior())._check_arguments()
    finite("x_o", x_o)
    random = generator_of(random_state)
    theta, x = torch.empty(0, len(low), dtype=torch.float64), torch.empty(0)
    boxes, shares, dense = [], [], Region(x_o)
    for number in range(rounds):
        boxes.append((low, high))
        new, share = dense.proposals(low, high, simulations, random)
        shares.append(share)
        given = simulator(new.numpy().copy())  # a simulator may change its argument
        check_labels("x_o", x_o, labels_of(given))
        seen = number_rows("simulator", given)
        if len(seen) != simulations:
            raise ValueError(f"simulator: expected {simulations} observations, got {len(seen)}")
        observations(x_o, tuple(seen.shape[1:]), False, False)
        theta, x = torch.cat([theta, new]), torch.cat([x, seen]) if len(x) else seen
        inside = ((theta > low) & (theta < high)).all(1)
        inside[inside.clone()] = dense.holds(theta[inside])
        posterior: SimulationPosterior = clone(estimator or SimulationPosterior())
        posterior.set_params(random_state=int(random.randint(2**31 - 1)))
        with warnings.catch_warnings():
            if region == "density":  # parameters are then uniform in the region, and not in the whole box
                warnings.filterwarnings("ignore", "prior: expected simulations with parameters drawn from it")
            posterior.fit(theta[inside], x[inside], prior=(low, high))
        if number < rounds - 1:
            seed = int(random.randint(2**31 - 1))
            if region == "density":
                dense.add(posterior, seed)
            low, high = _box(posterior, x_o, seed, low, high)
    lower, upper = (torch.stack(side).numpy() for side in zip(*boxes, strict=True))
    return TruncatedRounds(posterior, lower, upper, np.array(shares), theta.numpy(), x.numpy())


class Region:
    """Where the densities of all earlier posteriors are high. Without posteriors it is everywhere.

    Args:
        x_o: the observation.
    """

    def __init__(self, x_o: Any) -> None:
        self.x_o = x_o
        self.bounds: list[tuple[SimulationPosterior, float]] = []

    def add(self, posterior: SimulationPosterior, seed: int) -> None:
        """Keep what is denser under a posterior than all but the share `LEFT_OUT` of its draws."""
        draws = posterior.sample(self.x_o, DRAWS, random_state=seed)
        self.bounds.append((posterior, float(np.quantile(posterior.log_prob(draws, self.x_o), LEFT_OUT))))

    def holds(self, theta: Tensor) -> Tensor:
        """Which parameters `[n, d]` are in the region, `[n]`."""
        kept = torch.ones(len(theta), dtype=torch.bool)
        for posterior, least in self.bounds:
            kept[kept.clone()] = torch.from_numpy(posterior.log_prob(theta[kept], self.x_o) >= least)
        return kept

    def proposals(self, low: Tensor, high: Tensor, n: int, random: np.random.RandomState) -> tuple[Tensor, float]:
        """n parameters that are uniform in the region within a box, `[n, d]`, and the share of the box that it has."""
        found, tried = torch.empty(0, len(low), dtype=torch.float64), 0
        while len(found) < n:
            if tried > TRIES * n:
                raise ValueError(f"region: expected one that takes up at least 1/{TRIES} of its box, got "
                                 f"{len(found)} of {tried} parameters in it; take region='box'")  # fmt: skip
            new = low + (high - low) * torch.from_numpy(random.uniform(size=(n, len(low))))
            found, tried = torch.cat([found, new[self.holds(new)]]), tried + n
        return found[:n], len(found) / tried


def _box(posterior: SimulationPosterior, x_o: Any, seed: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range of the posterior's draws with a margin, within the box of before."""
    draws = torch.from_numpy(posterior.sample(x_o, DRAWS, random_state=seed))
    least, most = draws.amin(0), draws.amax(0)
    margin = MARGIN * (most - least)
    return torch.maximum(least - margin, low), torch.minimum(most + margin, high)
