"""Whether draws of posteriors are calibrated: ranks, coverage of regions, and predictions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold, cross_val_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = (0.5, 0.8, 0.95)
"""Levels whose coverage is stated."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose_draws` found. `print(diagnosis)` shows it, and `plot` draws it.

    Args:
        ranks: the ranks of the true parameters among their draws, spread evenly over (0, 1) if calibrated, `[m, d]`.
        rank_p_values: of the Kolmogorov-Smirnov test that each parameter's ranks are uniform, `[d]`.
        tarp: the credibility level at which TARP's region reaches the true parameter, `[m]`.
        tarp_p_value: of the test that they are uniform.
        coverage: for each level the share of true parameters in TARP's region, and its standard error.
        c2st: how often a classifier that sees the observation tells the ranks of true parameters from those of a draw,
            and its standard error. 0.5 means that it cannot.
        predictive: the share of the numbers of the observations within the central 95% of their predictions, and its
            standard error; None without a simulator.
        significance: the probability that a calibrated posterior fails.
    """

    ranks: np.ndarray
    rank_p_values: np.ndarray
    tarp: np.ndarray
    tarp_p_value: float
    coverage: dict[float, tuple[float, float]]
    c2st: tuple[float, float]
    predictive: tuple[float, float] | None = None
    significance: float = 0.01
    failures: list[str] = field(init=False)

    def __post_init__(self) -> None:
        tests = {f"ranks of parameter {j}": float(p) for j, p in enumerate(self.rank_p_values)}
        tests["coverage (TARP)"] = self.tarp_p_value
        value, error = self.c2st
        tests["local ranks (C2ST)"] = float(stats.norm.sf((value - 0.5) / max(error, 1e-12)))
        # With Bonferroni's bound the level holds for all of the tests together.
        limit = self.significance / len(tests)
        object.__setattr__(self, "failures", [f"{name}: p = {p:.2g}" for name, p in tests.items() if p < limit])

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return not self.failures

    def __str__(self) -> str:
        lines = ["passed" if self.passed else "failed: " + "; ".join(self.failures)]
        lines.append(f"tested on {len(self.ranks)} simulations, at significance {self.significance} for all tests")
        for level, (share, error) in self.coverage.items():
            lines.append(f"regions of {level:.0%} hold {share:.3f} ± {error:.3f} of the true parameters")
        lines.append(f"accuracy of a classifier of ranks: {self.c2st[0]:.3f} ± {self.c2st[1]:.3f}, 0.5 if calibrated")
        if self.predictive is not None:
            share, error = self.predictive
            lines.append(f"predictions of 95% hold {share:.3f} ± {error:.3f} of the observations")
        return "\n".join(lines)

    def plot(self, path: str | Path) -> None:
        """Draw the ranks of each parameter and the expected coverage, each with a 95% band, to a file."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        self.draw(*figure.subplots(1, 2))
        figure.suptitle("passed" if self.passed else "failed")
        figure.savefig(path, dpi=120)

    def draw(self, left: Axes, right: Axes, names: Sequence[str] | None = None) -> None:
        """Draw the ranks of each parameter on the axes `left`, and the expected coverage on `right`.

        Args:
            left, right: axes.
            names: of the parameters; "parameter 0" and so on by default.
        """
        names = names or [f"parameter {j}" for j in range(self.ranks.shape[1])]
        m, place = len(self.ranks), np.linspace(0, 1, 201)
        band = 1.96 * np.sqrt(place * (1 - place) / m)
        for axes, columns, labels in (
            (left, self.ranks.T, names),
            (right, self.tarp[None], ["TARP"]),
        ):
            axes.fill_between(place, -band, band, color="0.85", label="95% at each point if calibrated")
            for values, name in zip(columns, labels, strict=True):
                share = np.searchsorted(np.sort(values), place, side="right") / m
                axes.plot(place, share - place, label=name)
            axes.legend(fontsize=7, loc="lower left", ncols=2)
            axes.margins(y=0.25)
            axes.set_ylabel("share below, less the nominal share")
        left.set_xlabel("rank of the true parameter among the draws")
        right.set_xlabel("level of the region")


def diagnose_draws(
    draws: np.ndarray,
    theta: np.ndarray,
    x: np.ndarray,
    observed: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    *,
    random_state: int | None = 0,
) -> Diagnosis:
    """Tests of calibration on pairs (theta, x) drawn from the prior and the simulator.

    Ranks of the true parameters among posterior draws are uniform (simulation-based calibration, Talts et al. 2018).
    The share of draws that are nearer to a random point than the true parameter is uniform as well (TARP, Lemos et al.
    2023). A classifier cannot tell pairs (rank of theta, x) from pairs (rank of a draw, x), which tests calibration at
    each observation (after Linhart et al. 2023). The tests hold at the stated significance together, by Bonferroni's
    bound.

    Args:
        draws: of the posterior given each row of `x`, `[m, draws, d]`, at least two.
        theta: the true parameters, `[m, d]`.
        x: observations in comparable units, `[m, k]`.
        observed, predicted: observations `[m, *shape]` and simulations `[m, s, *shape]` at posterior draws, for the
            share within their central 95%. NaN is a simulation that failed.
        random_state: of the random points, of ties and of the classifier.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer than 20 pairs.
    """
    m = len(theta)
    if m < 20:
        raise ValueError(f"theta: expected at least 20 pairs to test with, got {m}")
    if draws.ndim != 3 or draws.shape[::2] != theta.shape or draws.shape[1] < 2 or len(x) != m:
        raise ValueError(
            f"draws: expected shape [{m}, draws, {theta.shape[1]}], got {list(draws.shape)}, and {len(x)} rows of x"
        )
    random = np.random.default_rng(random_state)
    ranks = _uniform_rank((draws < theta[:, None]).sum(1), draws.shape[1], random)
    scale = theta.std(0)
    # Each random point is the true parameter of another pair, so that it does not depend on the draws.
    points = np.roll(theta, int(random.integers(1, m)), axis=0)
    points = points + scale * 0.1 * random.standard_normal(points.shape)
    to_draws = np.linalg.norm((draws - points[:, None]) / scale, axis=2)
    to_truth = np.linalg.norm((theta - points) / scale, axis=1)
    tarp = _uniform_rank((to_draws < to_truth[:, None]).sum(1), draws.shape[1], random)
    coverage = {}
    for level in LEVELS:
        share = float((tarp < level).mean())
        coverage[level] = (share, math.sqrt(level * (1 - level) / m))
    return Diagnosis(
        ranks,
        np.array([stats.kstest(column, "uniform").pvalue for column in ranks.T]),
        tarp,
        float(stats.kstest(tarp, "uniform").pvalue),
        coverage,
        _local_c2st(draws, theta, x, random),
        None if predicted is None or observed is None else _predictive(observed, predicted),
    )


def _uniform_rank(below: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Ranks as numbers in (0, 1), uniform where each rank from 0 to `draws` is as likely as another."""
    return (below + random.random(below.shape)) / (draws + 1)


def _local_c2st(
    draws: np.ndarray, theta: np.ndarray, x: np.ndarray, random: np.random.Generator
) -> tuple[float, float]:
    """Held-out accuracy of a classifier of (rank of theta, x) against (rank of a draw, x), and its standard error.

    The ranks of several parameters depend on one another where the parameters do. They are therefore compared with
    those of a draw, which are so too, and not with independent uniform numbers. Both are ranks among the other draws.
    """
    m, others = len(theta), draws[:, 1:]
    ranks = [_uniform_rank((others < one[:, None]).sum(1), others.shape[1], random) for one in (theta, draws[:, 0])]
    rows = np.concatenate([np.concatenate([one, x], 1) for one in ranks])
    label = np.repeat([0, 1], m)
    # Both rows of an observation are in one fold, so that the classifier has not seen it.
    groups = np.tile(np.arange(m), 2)
    classifier = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8, random_state=0)
    accuracy = cross_val_score(classifier, rows, label, groups=groups, cv=GroupKFold(5))
    return float(accuracy.mean()), 0.5 / math.sqrt(2 * m)


def _predictive(observed: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """The share of observed numbers within the central 95% of predictions, and the standard error over pairs.

    Predictions that failed are NaN and left out. If all of a pair failed, they hold nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(predicted, [0.025, 0.975], axis=1)
    held = ((observed >= low) & (observed <= high)).reshape(len(observed), -1).mean(1)
    return float(held.mean()), float(held.std() / math.sqrt(len(held)))
