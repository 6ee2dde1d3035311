"""Inverse problems whose posterior is known: Gaussian mixtures under a linear measurement with normal noise.

A seed draws the mixture, the operator, the sample that is measured and its noise. All are in units in which the data
have a standard deviation near 1. Seeds from 0 to 99 were used while the samplers were made; results use 1000 and above.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.models import GaussianMixture, Mask, Measurement, Projection
from backdrift.sde import VP


@dataclass(frozen=True)
class Problem:
    """A prior, what was measured of one of its samples, and the exact posterior."""

    prior: GaussianMixture
    measurement: Measurement
    posterior: GaussianMixture

    @property
    def size(self) -> int:
        """d, of one sample."""
        return self.prior.means.shape[1]


def grid(seed: int, d: int, m: int) -> Problem:
    """25 modes N(m_ij, 1) with m_ij = (8 i, 8 j, 8 i, ...), i and j from -2 to 2, and m measurements (Cardoso, Janati,
    Le Corff & Moulines 2023, section 4).

    Weights are squares of normal numbers. The singular values of A are uniform in [0, 1], and the standard deviation of
    the noise is a uniform number times the largest of them.
    """
    g = torch.Generator().manual_seed(seed)
    places = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3)).double()
    width = 8 * math.sqrt(2)  # the standard deviation of the places
    weights = torch.randn(25, generator=g).double().square()
    prior = GaussianMixture((8 * places).repeat(1, d // 2) / width, 1 / width**2, weights, VP())
    left, _, right = torch.linalg.svd(torch.randn(m, d, generator=g).double(), full_matrices=False)
    singular = torch.rand(m, generator=g).double()
    rows = left @ torch.diag(singular) @ right
    std = float(torch.rand(1, generator=g).double() * singular.max()) / width
    value = prior.sample(1, g)[0] @ rows.mT + std * torch.randn(m, generator=g).double()
    return _problem(prior, Measurement(Projection(rows), value, std=std))


def digits(seed: int) -> Problem:
    """scikit-learn's 8x8 digits, a normal density for each class, of which the upper half is seen with noise 0.1.

    The densities are fitted to half of the 1797 digits. The measured digit is one of the other half, so that it is not
    a draw of the mixture. Pixels are between -1 and 1. 0.1^2 is added to the variances, since some pixels never change.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    g = torch.Generator().manual_seed(seed)
    pixels, labels = torch.from_numpy(data.data) / 8 - 1, torch.from_numpy(data.target)
    order = torch.randperm(len(pixels), generator=g)
    half, rest = order[: len(order) // 2], order[len(order) // 2 :]
    groups = [pixels[half][labels[half] == k] for k in range(10)]
    covariances = torch.stack([group.mT.cov() + 0.01 * torch.eye(64).double() for group in groups])
    weights = torch.tensor([float(len(group)) for group in groups], dtype=torch.float64)
    prior = GaussianMixture(torch.stack([group.mean(0) for group in groups]), covariances, weights, VP())
    seen = torch.arange(64) < 32
    value = pixels[rest[0]][seen] + 0.1 * torch.randn(32, generator=g).double()
    return _problem(prior, Measurement(Mask(seen), value, std=0.1))


def _problem(prior: GaussianMixture, measurement: Measurement) -> Problem:
    return Problem(prior, measurement, prior.given(measurement))


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "grid8": lambda seed: grid(seed, 8, 1),
    "grid80": lambda seed: grid(seed, 80, 4),
    "digits64": digits,
}
TITLES = {
    "grid8": "8-D, 25 modes, one measurement",
    "grid80": "80-D, 25 modes, four measurements",
    "digits64": "64-D, mixture fitted to 8x8 digits, upper half seen, noise 0.1",
}


def start(problem: Problem, n: int, seed: int) -> Tensor:
    """n states x_T of the prior."""
    prior = problem.prior
    noise = torch.randn(n, problem.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return prior.sde.prior_for(prior.data_moments).from_noise(noise)
