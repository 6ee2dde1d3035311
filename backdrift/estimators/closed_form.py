"""The closed form that the density of a table starts from: one normal density, or a mixture of a few."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from sklearn.covariance import ledoit_wolf
from sklearn.mixture import GaussianMixture as Mixture
from sklearn.model_selection import KFold
from torch import Tensor

from backdrift.models import GaussianMixture

FOLDS = 4
"""Parts of the rows, each of which is scored by mixtures of the others."""

COMPONENTS = (2, 3, 5)
"""Numbers of components that are tried. What more of them could say is left to the network."""

FLOORS = (1e-3, 1e-2, 1e-1)
"""Variances that are added to each feature of a component, as parts of its variance in the table. They keep a
component of a few rows from being flat."""

ROWS_OF_COMPONENT = 15
"""A mixture has at most one component for so many rows."""

MOST_ROWS = 3000
"""Mixtures are compared and fitted on so many rows, drawn at random, if there are more."""

CERTAIN = 1.0
"""A mixture takes the place of the normal density if it is better by so many standard errors on the rows that it was
not fitted to."""


@dataclass(frozen=True)
class ClosedForm:
    """The settings of a mixture of normal densities.

    Args:
        components: their number. One component is the normal density N(0, I) of whitened rows.
        floor: the variance that is added to every direction of a component.
        whitened: whether `floor` is of the whitened rows, and not of the standardised features.
    """

    components: int = 1
    floor: float = 0.0
    whitened: bool = False

    def fitted(self, z: Tensor, colouring: Tensor, seed: int) -> GaussianMixture | None:
        """The mixture of whitened rows, or None for the normal density.

        Args:
            z: whitened rows, `[n, d]`.
            colouring: the inverse of the whitening, `[d, d]`: standardised features are u = colouring z.
            seed: of the rows that are drawn, and of the components' first places.
        """
        if self.components == 1:
            return None
        z = _some(z.double(), seed)
        colouring = torch.eye(z.shape[1], dtype=torch.float64) if self.whitened else colouring.double()
        found = Mixture(self.components, reg_covar=self.floor, max_iter=200, random_state=seed)
        found.fit((z @ colouring.T).numpy())
        means = torch.linalg.solve(colouring, torch.from_numpy(found.means_).T).T
        half = torch.linalg.solve(colouring, torch.from_numpy(found.covariances_))
        covariances = torch.linalg.solve(colouring, half.mT)
        return GaussianMixture(means, (covariances + covariances.mT) / 2, torch.from_numpy(found.weights_))


def best_closed_form(z: Tensor, colouring: Tensor, seed: int) -> ClosedForm:
    """The closed form that makes rows most likely which it was not fitted to.

    Cross-validation decides. The normal density that mixtures are compared with has the covariance of Ledoit & Wolf
    (2004).

    Args:
        z: whitened rows, `[n, d]`.
        colouring: see `ClosedForm.fitted`.
        seed: of the folds and the mixtures.
    """
    z, colouring = _some(z.double(), seed), colouring.double()
    most = len(z) // ROWS_OF_COMPONENT
    tried = [
        ClosedForm(k, floor, whitened)
        for k, floor, whitened in product(COMPONENTS, FLOORS, (False, True))
        if k <= most and not (whitened and floor == FLOORS[-1])
    ]
    best, gain = ClosedForm(), 0.0
    folds = list(KFold(FOLDS, shuffle=True, random_state=seed).split(z)) if tried else []
    normal = torch.empty(len(z), dtype=torch.float64)
    for rows, others in folds:
        normal[others] = _normal(z[rows] @ colouring.T).log_prob(z[others] @ colouring.T)
    normal += torch.linalg.slogdet(colouring)[1]
    for form in tried:
        difference = torch.empty(len(z), dtype=torch.float64)
        for rows, others in folds:
            mixture = form.fitted(z[rows], colouring, seed)
            assert mixture is not None
            difference[others] = mixture.log_prob(z[others]) - normal[others]
        mean, error = float(difference.mean()), float(difference.std()) / len(z) ** 0.5
        if mean > max(gain, CERTAIN * error):
            best, gain = form, mean
    return best


def _normal(u: Tensor) -> GaussianMixture:
    """The normal density of standardised features `[n, d]`."""
    covariance = ledoit_wolf(u.numpy())[0]
    return GaussianMixture(u.mean(0, keepdim=True), torch.from_numpy(covariance)[None])


def _some(z: Tensor, seed: int) -> Tensor:
    """At most `MOST_ROWS` of the rows."""
    if len(z) <= MOST_ROWS:
        return z
    return z[torch.randperm(len(z), generator=torch.Generator().manual_seed(seed), device="cpu")[:MOST_ROWS]]
