"""Priors and simulators of six tasks of the sbibm benchmark (Lueckmann et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

Random = np.random.Generator


@dataclass(frozen=True)
class Task:
    """A prior and a simulator. `draw(random, n)` gives parameters, `simulate(random, theta)` observations."""

    prior: object
    draw: Callable[[Random, int], np.ndarray]
    simulate: Callable[[Random, np.ndarray], np.ndarray]


def uniform(bound: float, d: int, simulate: Callable[[Random, np.ndarray], np.ndarray]) -> Task:
    return Task((np.full(d, -bound), np.full(d, bound)), lambda g, n: g.uniform(-bound, bound, (n, d)), simulate)


def two_moons(g: Random, theta: np.ndarray) -> np.ndarray:
    angle, radius = g.uniform(-math.pi / 2, math.pi / 2, len(theta)), g.normal(0.1, 0.01, len(theta))
    a, b = theta.T
    return np.stack(
        [
            radius * np.cos(angle) + 0.25 - np.abs(a + b) / math.sqrt(2),
            radius * np.sin(angle) + (b - a) / math.sqrt(2),
        ],
        1,
    )


def gaussian_mixture(g: Random, theta: np.ndarray) -> np.ndarray:
    width = np.where(g.random(len(theta)) < 0.5, 1.0, 0.1)[:, None]
    return theta + width * g.standard_normal(theta.shape)


def gaussian(g: Random, theta: np.ndarray) -> np.ndarray:
    return theta + math.sqrt(0.1) * g.standard_normal(theta.shape)


def slcp(g: Random, theta: np.ndarray) -> np.ndarray:
    first, second, correlation = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    e = g.standard_normal((len(theta), 4, 2))
    u = theta[:, 0, None] + first[:, None] * e[..., 0]
    rest = np.sqrt(1 - correlation**2)[:, None]
    v = theta[:, 1, None] + second[:, None] * (correlation[:, None] * e[..., 0] + rest * e[..., 1])
    return np.stack([u, v], 2).reshape(len(theta), 8)


def bernoulli_glm(files: Path) -> Task:
    """The stimulus is that of sbibm's files, since the reference draws belong to it."""
    design = torch.load(files / "design_matrix.pt", weights_only=True).numpy()
    stimulus = torch.load(files / "stimulus_I.pt", weights_only=True).numpy().reshape(-1)
    m = 9
    step = np.eye(m) - np.diag(np.ones(m - 1), -1)
    smooth = step @ step + np.diag(np.sqrt(np.arange(m) / m))
    precision = np.zeros((m + 1, m + 1))
    precision[0, 0], precision[1:, 1:] = 0.5, smooth.T @ smooth
    covariance = np.linalg.inv(precision)
    root = np.linalg.cholesky(covariance)

    def simulate(g: Random, theta: np.ndarray) -> np.ndarray:
        spikes = (g.random((len(theta), len(design))) < 1 / (1 + np.exp(-theta @ design.T))).astype(float)
        # sbibm correlates with padding 8 and keeps the last nine lags.
        padded = np.pad(spikes, ((0, 0), (8, 8)))
        lags = padded.shape[1] - len(stimulus) + 1
        average = np.stack([padded[:, k : k + len(stimulus)] @ stimulus for k in range(lags)][-m:], 1)
        return np.concatenate([spikes.sum(1, keepdims=True), average], 1)

    prior = torch.distributions.MultivariateNormal(torch.zeros(m + 1).double(), torch.from_numpy(covariance))
    return Task(prior, lambda g, n: g.standard_normal((n, m + 1)) @ root.T, simulate)


def tasks(reference: Path) -> dict[str, Task]:
    ten = torch.distributions.Normal(torch.zeros(10), math.sqrt(0.1))
    return {
        "two_moons": uniform(1, 2, two_moons),
        "gaussian_mixture": uniform(10, 2, gaussian_mixture),
        "slcp": uniform(3, 5, slcp),
        "gaussian_linear_uniform": uniform(1, 10, gaussian),
        "gaussian_linear": Task(ten, lambda g, n: math.sqrt(0.1) * g.standard_normal((n, 10)), gaussian),
        "bernoulli_glm": bernoulli_glm(reference / "bernoulli_glm" / "files"),
    }
