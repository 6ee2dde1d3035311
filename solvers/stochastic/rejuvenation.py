"""Metropolis steps that part the copies of a particle, without a change of what the particles are drawn from."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from backdrift.solvers.noise import FORWARD, TIMES, Noise
from backdrift.solvers.stochastic.particle_steps import Step, kept

MOVE = 0.5
"""How far a Metropolis step goes, from 0 for nowhere to 1 for a fresh proposal."""


class Rejuvenation:
    r"""Metropolis steps on the last state of each particle, given its ancestor.

    The chain's target at s, given the ancestor x_t, is p(x_s | x_t) p(y | x_s). x_s is a function of normal draws z,
    and its weight w(z) is that target over the density of the proposal. The step z' = sqrt(1 - b^2) z + b xi is
    reversible for the draws (Cotter, Roberts, Stuart & White 2013, section 4.2), so that it is accepted with the
    probability min(1, w(z')/w(z)). The target is left as it is, and so are the weights and the expectation of the
    evidence.

    Args:
        step: of the chain.
        moves: Metropolis steps after each step of the chain.
        draw: the noise of the starting points, whose other streams are taken.
    """

    def __init__(self, step: Step, moves: int, draw: Noise) -> None:
        self.step, self.moves = step, moves
        self.kick = draw.sibling(tuple(draw.shape), FORWARD)
        self.test = draw.sibling((draw.shape[0], 1), TIMES)
        self.last: tuple[Tensor, Any, Tensor, Tensor, Tensor, Tensor] | None = None

    def remember(self, x: Tensor, at: Any, t: Tensor, s: Tensor, z: Tensor, log_w: Tensor) -> None:
        """The step that was taken: from where, by which draws, and with which log-weight."""
        if self.moves:
            self.last = (x, at, t, s, z, log_w)

    def keep(self, keep: Tensor) -> None:
        """Resample what is remembered."""
        if self.last is not None:
            x, at, t, s, z, log_w = self.last
            self.last = (x[keep], kept(at, keep), t, s, z[:, keep], log_w[keep])

    def __call__(self, x: Tensor, at: Any) -> tuple[Tensor, Any]:
        """The states after the moves, and what the guide says there."""
        if self.last is None:
            return x, at
        ancestor, there, t, s, z, log_w = self.last
        for _ in range(self.moves):
            proposed = math.sqrt(1 - MOVE**2) * z + MOVE * self.step.draws(there, self.kick)
            new_x, new, new_w = self.step(ancestor, there, t, s, proposed)
            log_uniform = torch.special.log_ndtr(self.test().squeeze(1)).to(log_w)
            accept = log_uniform < new_w - log_w
            at = type(at)(*(_where(accept, a, b) for a, b in zip(new, at, strict=True)))
            x, z, log_w = _where(accept, new_x, x), _where(accept, proposed, z, 1), _where(accept, new_w, log_w)
        return x, at


def _where(accept: Tensor, new: Tensor, old: Tensor, axis: int = 0) -> Tensor:
    """The new values of the particles that are accepted, and the old ones of the others.

    `axis` is that of the particles.
    """
    shape = [1] * new.ndim
    shape[axis] = -1
    return torch.where(accept.reshape(shape), new, old)
