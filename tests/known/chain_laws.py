"""The law of chains: known correlations, moments, and two-sample tests of each component."""

import math

from scipy import stats
from torch import Tensor

from backdrift.solvers.langevin.chains import Chains


def known(value: Tensor | None) -> Tensor:
    """A tensor that is there."""
    assert value is not None
    return value


def last(chains: Chains) -> Tensor:
    """The last draw of every chain: independent numbers, with errors that need no autocorrelation."""
    return chains.draws[:, -1]


def assert_same_law(x: Tensor, y: Tensor, level: float = 1e-3) -> None:
    """Two-sample Kolmogorov-Smirnov tests of each component, at `level` in all."""
    for i in range(x.shape[1]):
        p = stats.ks_2samp(x[:, i].numpy(), y[:, i].numpy()).pvalue
        assert p > level / x.shape[1], (i, p)


def assert_moments(x: Tensor, mean: Tensor, sd: Tensor, errors: float = 4.5) -> None:
    """Mean and variance of independent draws within so many standard errors."""
    n = len(x)
    centred = x - mean
    variance = centred.square()
    assert (centred.mean(0).abs() < errors * x.std(0) / n**0.5).all(), centred.mean(0) / (x.std(0) / n**0.5)
    gap = (variance.mean(0) - sd.square()) / (variance.std(0) / n**0.5)
    assert (gap.abs() < errors).all(), gap


def correlation_of_ends(time: float, friction: float) -> float:
    """The correlation that underdamped dynamics leaves after a time in a Gaussian direction of unit variance."""
    q = math.sqrt(1 - friction**2 / 4)
    return math.exp(-friction * time / 2) * (math.cos(q * time) + friction / (2 * q) * math.sin(q * time))
