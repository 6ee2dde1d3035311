"""The path of a solve by Adams methods, between the ends of its steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.solvers.flows.adams_weights import MOST, divided_differences, newton_integrals


class AdamsKnots:
    """Collects the ends of the steps of all samples, from which it makes an `AdamsPath`."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, ...]] = []

    def add(self, *row: Tensor) -> None:
        """Add a knot of each of n samples: their indices `[n]`, and the attributes of `AdamsPath` for them."""
        self.rows.append(row)

    def joined(self, shape: torch.Size) -> AdamsPath:
        """The path through all knots, for samples of a given shape."""
        which, *columns = (torch.cat(column) for column in zip(*self.rows, strict=True))
        order = torch.argsort(which, stable=True)  # by sample, and within a sample in the order of its steps
        angles, states, values, used = (column[order] for column in columns)
        return AdamsPath(torch.bincount(which), angles, states, values, used, shape)


@dataclass(frozen=True)
class AdamsPath:
    r"""The path z(phi) of every sample of a solve of dz/dphi = -F.

    Between the ends phi_n and phi_(n+1) of a step, called knots, it is

    .. math:: z(\phi) = z_n + \int_{\phi_n}^{\phi} P(\phi') d\phi',

    where P is the polynomial of the corrected step: through the values at phi_(n+1), phi_n and the `used` - 1 knots
    before. The path is continuous, and between the knots as accurate as at them.

    Attributes:
        counts: the number of knots of each sample, `[batch]`.
        angles: phi at the knots, which falls, one sample after the other, `[sum of counts]`.
        states: the states at the knots, in the same order, `[sum of counts, size]`.
        values: the values of -F that the solve used at the knots, in the same order.
        used: the number of values before its end that the step from each knot used, in the same order.
        shape: the shape of a sample.
    """

    counts: Tensor
    angles: Tensor
    states: Tensor
    values: Tensor
    used: Tensor
    shape: torch.Size

    def __call__(self, angles: Tensor) -> Tensor:
        """z at the angles `[m]` in the interval of the solve, `[m, batch, ...]`."""
        wanted = angles.double().expand(len(self.counts), -1)
        rows = self._steps(wanted).T.reshape(-1)
        wanted = wanted.T.reshape(-1)
        # The nodes are the step's end, its start, and the knots before. Those before the first are not used.
        lags = torch.arange(-1, MOST, device=rows.device).unsqueeze(1)
        first = (self.counts.cumsum(0) - self.counts).repeat(len(angles))
        near = torch.maximum(rows - lags, first)
        nodes = self.angles[near]
        differences = divided_differences(nodes)
        integrals = newton_integrals(nodes[1], wanted, nodes[:-1]).unsqueeze(1)
        kept = torch.arange(MOST + 1, device=rows.device).unsqueeze(1) <= self.used[rows]
        weights = torch.where(kept.unsqueeze(1), integrals * differences, 0).sum(0).to(self.states.dtype)
        z = self.states[rows]
        for weight, row in zip(weights, near, strict=True):
            z = z + weight.unsqueeze(1) * self.values[row]
        return z.reshape(len(angles), -1, *self.shape)

    def _steps(self, wanted: Tensor) -> Tensor:
        """The row of the knot at which the step starts that contains each of the angles `[batch, m]`."""
        rising = torch.nn.utils.rnn.pad_sequence(
            [*(-self.angles).split(self.counts.tolist())], batch_first=True, padding_value=torch.inf
        )
        found = torch.searchsorted(rising, (-wanted).contiguous(), right=True) - 1
        found = torch.minimum(found.clamp(min=0), self.counts.unsqueeze(1) - 2)
        return found + (self.counts.cumsum(0) - self.counts).unsqueeze(1)
