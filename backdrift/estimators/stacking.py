"""The closed form that the density of targets given features starts from: a weighted mean of conditional mixtures."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from sklearn.mixture import GaussianMixture as Mixture
from sklearn.model_selection import KFold
from torch import Tensor

from backdrift.estimators.closed_form import COMPONENTS, FOLDS, MOST_ROWS, ROWS_OF_COMPONENT
from backdrift.estimators.conditional_mixture import ConditionalMixture, Expert
from backdrift.models import GaussianMixture

FLOORS = (1e-2, 1e-1)
"""Variances that are added to each feature and target of a component, as parts of its variance in the table."""

MOST_FEATURES = 50
"""With more features the closed form is the normal density alone, since mixtures would take too long to fit."""

ROUNDS = 100
"""Rounds of expectation and maximisation for the weights."""

LEAST = 0.01
"""An expert of a lower weight is left out."""


class Rows(NamedTuple):
    """Rows of a table, and how their targets become whitened residuals: z = matrix (u - slope x - offset).

    Attributes:
        x: standardised features, `[n, features]`.
        u: standardised targets, `[n, d]`.
        z: whitened residuals, each of a regression that has not seen its row, `[n, d]`.
        matrix, slope, offset: of the regression that has seen all rows.
    """

    x: Tensor
    u: Tensor
    z: Tensor
    matrix: Tensor
    slope: Tensor
    offset: Tensor

    def at(self, index: Tensor) -> Rows:
        """Some of the rows."""
        return self._replace(x=self.x[index], u=self.u[index], z=self.z[index])


@dataclass(frozen=True)
class Form:
    """The settings of an expert.

    Args:
        components: of its mixture; 1 is the normal density N(0, I) of whitened residuals.
        floor: the variance that is added to every feature and target.
        of_target: whether the mixture is one of (x, u), and not of (x, z).
    """

    components: int = 1
    floor: float = 0.0
    of_target: bool = False

    def fitted(self, rows: Rows, seed: int) -> Expert:
        """The expert that is fitted to some rows, as a density of z given x."""
        features, d = rows.x.shape[1], rows.z.shape[1]
        if self.components == 1:
            return Expert.standard(features, d)
        table = torch.cat([rows.x, rows.u if self.of_target else rows.z], 1)
        found = Mixture(self.components, reg_covar=self.floor, max_iter=200, random_state=seed).fit(table.numpy())
        means, covariances, weights = map(torch.from_numpy, (found.means_, found.covariances_, found.weights_))
        joint = GaussianMixture(means, covariances, weights)
        expert = Expert.of_joint(joint, features)
        return expert.mapped(rows.matrix, rows.slope, rows.offset) if self.of_target else expert


@dataclass(frozen=True)
class Stacking:
    """Experts and their weights, by which held-out rows are most likely.

    Args:
        forms: the experts.
        weights: of each of them.
    """

    forms: tuple[Form, ...] = (Form(),)
    weights: tuple[float, ...] = (1.0,)

    def fitted(self, rows: Rows, seed: int) -> ConditionalMixture | None:
        """The density of z given x that is fitted to some rows, or None for the normal density N(0, I).

        Args:
            rows: see `Rows`.
            seed: of the rows that are drawn if there are many, and of the components' first places.
        """
        if self.forms == (Form(),):
            return None
        rows = rows.at(_some(len(rows.x), seed))
        experts = [form.fitted(rows, seed) for form in self.forms]
        return ConditionalMixture(experts, torch.tensor(self.weights, dtype=torch.float64))


def stacked(rows: Rows, seed: int) -> Stacking:
    """The weights of experts that make the rows of left-out folds most likely (stacking, Yao et al. 2018).

    The experts are the normal density of the residuals of a linear regression, and mixtures of features and targets, or
    of features and residuals, conditioned on the features. With more than 50 features there is the normal one alone.

    Args:
        rows: see `Rows`.
        seed: of the folds and the mixtures.
    """
    rows = rows.at(_some(len(rows.x), seed))
    n, features = rows.x.shape
    most = n // ROWS_OF_COMPONENT
    forms = [Form(k, floor, own) for k, floor, own in product(COMPONENTS, FLOORS, (False, True)) if k <= most]
    if not forms or features > MOST_FEATURES:
        return Stacking()
    forms = [Form(), *forms]
    log_p = torch.empty(n, len(forms), dtype=torch.float64)
    for kept, out in KFold(FOLDS, shuffle=True, random_state=seed).split(rows.x):
        for j, form in enumerate(forms):
            expert = ConditionalMixture([form.fitted(rows.at(torch.from_numpy(kept)), seed)], torch.ones(1).double())
            log_p[out, j] = expert.given(rows.x[out]).log_prob(rows.z[out])
    weights = _most_likely(log_p.numpy())
    chosen = [(form, float(w)) for form, w in zip(forms, weights, strict=True) if w >= LEAST]
    return Stacking(*zip(*chosen, strict=True))


def _most_likely(log_p: np.ndarray) -> np.ndarray:
    """The weights of densities that make rows most likely whose log-densities are `[n, densities]`."""
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    weights = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(ROUNDS):
        part = p * weights
        weights = (part / part.sum(1, keepdims=True)).mean(0)
    return weights


def _some(n: int, seed: int) -> Tensor:
    """The numbers of at most `MOST_ROWS` of n rows."""
    if n <= MOST_ROWS:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")[:MOST_ROWS]
