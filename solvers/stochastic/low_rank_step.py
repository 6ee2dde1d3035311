"""The step of a chain of particles whose covariance has a few axes of its own for each particle."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.model import place_of
from backdrift.solvers.noise import PATH, Noise
from backdrift.solvers.stochastic.particle_steps import in_chunks

FRESH = 4
"""Random directions beside the axes at each step. They find axes that the last state did not have."""


class Sight(NamedTuple):
    """What is known of x_0 at a state x_t, and what the whitened measurement sees of it.

    Attributes:
        denoised, axes, variances, rest: as in `sde.twist.LowRank`.
        seen: the rows of the measurement times the axes, `[batch, r, k]`.
        residual: the value less the rows times D, `[batch, r]`.
    """

    denoised: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor
    seen: Tensor
    residual: Tensor


class LowRankStep:
    r"""Kernels N(mu(x, D), v I + b^2 V), proposed from their posterior given y, where V has k axes of its own and one
    variance for all other directions.

    This is `FullStep` with that V. All matrices that it needs are functions of V, such as H = b A V C^{-1}, and
    differ from a multiple of 1 along the axes alone. Nothing has d times d numbers: a system with k unknowns is solved
    for each particle (Woodbury 1950). The measurement is whitened once, so that its own part of a system is diagonal.

    The axes of a particle are found from those that it had before, and move with it when it is resampled.
    """

    def __init__(self, guide: Any, shape: tuple[int, ...], rank: int, chunk: int | None = None) -> None:
        self.guide, self.chunk = guide, chunk
        device, dtype = place_of(guide)
        d = math.prod(shape)
        directions = Noise(0, (rank + FRESH, d), stream=PATH, dtype=dtype, device=device)().mT / math.sqrt(d)
        self.probes, self.fresh = directions[:, :rank], directions[:, rank:]
        self.rows, self.value, self.log_constant = guide.measurement.whitened(directions)
        self.squares = self.rows.square().sum(1)

    def look(self, x: Tensor, t: Tensor, probes: Tensor | None = None) -> Sight:
        if probes is None:
            probes = self.probes.expand(len(x), -1, -1)
        fresh = self.fresh.expand(len(x), -1, -1)
        found = in_chunks(
            lambda guide, *each: guide.low_rank(each[0], t.to(x), *each[1:]), self.guide, self.chunk, x, probes, fresh
        )
        residual = self.value - found.denoised.flatten(1) @ self.rows.mT
        return Sight(found.denoised, found.axes, found.variances, found.rest, self.rows @ found.axes, residual)

    def log_twist(self, at: Sight) -> Tensor:
        return self._spread(at, lambda v: v).log_prob(at.residual) + self.log_constant

    def guided(self, at: Sight) -> Tensor:
        spread = self._spread(at, lambda v: v)
        return at.denoised + spread.times(spread.solve(at.residual) @ self.rows).reshape(at.denoised.shape)

    def draws(self, at: Sight, kick: Noise) -> Tensor:
        """One for x_s, one for x_0 given x_s, and one for the noise of the measurement."""
        return torch.stack([kick(), kick(), kick()])

    def __call__(self, x: Tensor, at: Sight, t: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, Sight, Tensor]:
        sde, rows = self.guide.sde, self.rows
        plain, std = sde.bridge(x, at.denoised, s.to(x), t.to(x))
        b = float(sde.bridge(torch.zeros(1, 1), torch.ones(1, 1), s, t)[0])
        v = float(std.flatten()[0]) ** 2
        z = z.flatten(2)
        of = functools.partial(self._spread, at)
        given, gain = of(lambda a: v * a / (v + b**2 * a)), of(lambda a: b * a / (v + b**2 * a))
        # A draw of (x_s - mu, y) moves to the y that was seen (Matheron's rule, Wilson et al. 2021).
        move = of(lambda a: (v + b**2 * a).sqrt()).times(z[0])
        left = of(lambda a: (v * a / (v + b**2 * a)).sqrt()).times(z[1])
        seen = (gain.times(move) + left) @ rows.mT + z[2][:, : len(rows)]
        total = of(lambda a: a)
        move = move + b * total.times(total.solve(at.residual - seen) @ rows)
        predicted = given.log_prob(at.residual - gain.times(move) @ rows.mT) + self.log_constant
        x = plain + move.reshape(x.shape)
        new = self.look(x, s, at.axes)
        return x, new, self.log_twist(new) - predicted

    def _spread(self, at: Sight, f: Callable[[Tensor], Tensor]) -> _Spread:
        return _Spread(at, self.squares, f)


class _Spread:
    """M = f(V) = Q diag(f(v)) Q^T + f(rest) (1 - Q Q^T), and the normal density N(0, 1 + A M A^T) of what is seen.

    Args:
        at: V, and what the measurement sees of its axes.
        squares: the diagonal of A A^T, `[r]`.
        f: an increasing function of variances.
    """

    def __init__(self, at: Sight, squares: Tensor, f: Callable[[Tensor], Tensor]) -> None:
        self.axes, self.seen, self.squares = at.axes, at.seen, squares
        self.rest = f(at.rest).unsqueeze(1)
        self.more = (f(at.variances) - self.rest).clamp(min=0)

    def times(self, x: Tensor) -> Tensor:
        """M x for flattened x, `[batch, d]`."""
        along = self.more.unsqueeze(2) * (self.axes.mT @ x.unsqueeze(2))
        return (self.axes @ along).squeeze(2) + self.rest * x

    def solve(self, residual: Tensor) -> Tensor:
        """(1 + A M A^T)^{-1} of residuals, `[batch, r]`."""
        diagonal, wide, root = self._factors()
        u = residual / diagonal
        inner = torch.cholesky_solve(wide.mT @ u.unsqueeze(2), root)
        return u - (wide @ inner).squeeze(2) / diagonal

    def log_prob(self, residual: Tensor) -> Tensor:
        """log N(residual; 0, 1 + A M A^T) in nats, `[batch]`."""
        diagonal, wide, root = self._factors()
        u = residual / diagonal
        inner = torch.linalg.solve_triangular(root, wide.mT @ u.unsqueeze(2), upper=False).squeeze(2)
        square = (residual * u).sum(1) - inner.square().sum(1)
        log_det = diagonal.log().sum(1) + 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return -0.5 * (square + log_det + residual.shape[1] * math.log(2 * math.pi))

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """1 + rest A A^T as a diagonal, the rest of A M A^T as a product W W^T, and the root of 1 + W^T diag^{-1} W."""
        diagonal = 1 + self.rest * self.squares
        wide = self.seen * self.more.sqrt().unsqueeze(1)
        inner = wide.mT @ (wide / diagonal.unsqueeze(2))
        return diagonal, wide, torch.linalg.cholesky(inner + torch.eye(inner.shape[2]).to(inner))
