"""Normal data with a label for each sample: every density is known, and a label that is lost shows in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backdrift.sde import CriticallyDamped, GaussianSDE, Time, as_time

MEANS = torch.tensor([-2.0, 0.5, 1.5], dtype=torch.float64)
STD = 0.6


class LabelledGaussian:
    """Data N(m, STD^2 I) with m = MEANS[label], one label for each sample of the batch.

    Args:
        labels: `[batch]`, integers from 0 to 2.
        sde: the process.
    """

    data_std = 0.8

    def __init__(self, labels: Tensor, sde: GaussianSDE) -> None:
        self.labels, self.sde = labels, sde

    def select(self, indices: Tensor) -> LabelledGaussian:
        return LabelledGaussian(self.labels[indices], self.sde)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of each sample's data, `[batch, 1, ...]`."""
        assert len(x) == len(self.labels), f"{len(x)} samples, {len(self.labels)} labels"
        return MEANS[self.labels].to(x).reshape(-1, *(1,) * (x.ndim - 1))

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        t, mean = as_time(t, x), self.mean(x)
        alpha, noise = self.sde.alpha(t), self.sde.sigma(t).square()
        return mean + alpha * STD**2 / (alpha**2 * STD**2 + noise) * (x - alpha * mean)

    def log_prob(self, x: Tensor, t: float | None = None) -> Tensor:
        """log p_t of each sample given its label; at T by default, as a prior has it."""
        t = self.sde.T if t is None else t
        alpha, sigma = float(self.sde.alpha(t)), float(self.sde.sigma(t))
        variance = alpha**2 * STD**2 + sigma**2
        square = (x - alpha * self.mean(x)).square().flatten(1)
        return -0.5 * (square / variance + math.log(2 * math.pi * variance)).sum(1)

    def sample(self, t: float, dim: int, seed: int = 0) -> Tensor:
        """A draw of p_t for each label, `[batch, dim]` in float64."""
        noise = torch.randn(len(self.labels), dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        alpha, sigma = float(self.sde.alpha(t)), float(self.sde.sigma(t))
        return alpha * self.mean(noise) + math.hypot(sigma, alpha * STD) * noise


class LabelledPositions:
    """The same data under critically damped diffusion, with velocities that are 0 at t = 0: the score of the states.

    Args:
        labels: `[batch]`, integers from 0 to 2.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels, self.sde = labels, CriticallyDamped()

    def select(self, indices: Tensor) -> LabelledPositions:
        return LabelledPositions(self.labels[indices])

    def moments(self, t: Time) -> tuple[Tensor, Tensor]:
        """Mean of the state given each label, `[batch, 2]`, and its covariance, `[2, 2]` or `[batch, 2, 2]`."""
        phi, _ = self.sde.moments(0.0, t)
        start = torch.tensor([[STD**2, 0.0], [0.0, 0.0]], dtype=torch.float64)
        return MEANS[self.labels].unsqueeze(1) * phi[..., :, 0], phi @ start @ phi.mT + self.sde.covariance_at(t)

    def score(self, x: Tensor, t: Time) -> Tensor:
        assert len(x) == len(self.labels), f"{len(x)} samples, {len(self.labels)} labels"
        mean, covariance = self.moments(t)
        return -torch.linalg.solve(covariance, x.flatten(2) - mean.unsqueeze(-1)).reshape(x.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_T of the states."""
        assert len(x) == len(self.labels), f"{len(x)} samples, {len(self.labels)} labels"
        mean, covariance = self.moments(self.sde.T)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.flatten(2)[:, :, 0])
