r"""Overdamped Langevin dynamics dy = u dt + sqrt(2) dw by Euler and Maruyama's step.

A Metropolis test after the step is optional. y is the whitened position, x = L y, and u = L^T grad log p its score.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from backdrift.solvers.langevin.sampler import AdjustedSampler, State, UnadjustedSampler, log_density_change
from backdrift.solvers.langevin.target import LogDensityAndScore
from backdrift.solvers.langevin.whitening import whiten, whiten_score


@dataclass(frozen=True)
class ULA(UnadjustedSampler):
    r"""The unadjusted Langevin algorithm (Parisi 1981; Roberts & Tweedie 1996):

    .. math:: y' = y + h u(y) + \sqrt{2 h} z

    The lectures' x + eta/2 score + sqrt(eta) eps has h = eta/2 (Isachenko 2023). In a Gaussian direction of variance
    s^2 it is stationary at the variance s^2/(1 - h/(2 s^2)), for h < 2 s^2. The relative bias is therefore
    b = h/(2 s^2) to first order, and E[r^2] = (h/s^2)^3/2 = 4 b^3. The default target, 5e-4, keeps the bias of an
    isotropic Gaussian at 5%, and that of any direction of any Gaussian below 5% times the cube root of d.

    Args:
        step, target_energy_error, jitter: see `UnadjustedSampler`.
    """

    def first_step(self, dim: int) -> float:
        return 0.5 * dim ** (-1 / 3)

    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        return euler_maruyama(state, h, root, noise, evaluate)


@dataclass(frozen=True)
class MALA(AdjustedSampler):
    """The Metropolis-adjusted Langevin algorithm: `ULA` with a Metropolis test, exact at any step.

    Besag (1994), Roberts & Tweedie (1996). The acceptance rate 0.574 is optimal in high dimension (Roberts &
    Rosenthal 1998); h then falls like d^(-1/3).

    Args:
        step, target_acceptance_rate, jitter: see `AdjustedSampler`.
    """

    def first_step(self, dim: int) -> float:
        return 1.36 * dim ** (-1 / 3)

    def propose(
        self, state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
    ) -> tuple[State, Tensor]:
        return euler_maruyama(state, h, root, noise, evaluate)


def euler_maruyama(
    state: State, h: Tensor, root: Tensor, noise: Tensor, evaluate: LogDensityAndScore
) -> tuple[State, Tensor]:
    """y + h u + sqrt(2 h) z, and the logarithm of its Metropolis-Hastings ratio; arguments as in `Sampler.propose`."""
    u = whiten_score(root, state.score)
    move = h * u + (2 * h).sqrt() * noise
    x = state.x + whiten(root, move)
    log_prob, score = evaluate(x)
    u_new = whiten_score(root, score)
    # log q(y | y') - log q(y' | y) with the squares multiplied out, so that no large numbers are subtracted.
    backward = -0.5 * ((u + u_new) * move).sum(-1) - 0.25 * (h * (u_new - u) * (u_new + u)).sum(-1)
    return State(x, score, log_prob), log_density_change(state, log_prob, score, x) + backward
